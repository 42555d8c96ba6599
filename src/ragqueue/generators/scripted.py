"""Answer by a script, for tests and benches.

The same question gets the same words, each at its time.
"""

import asyncio
import time
import zlib
from collections.abc import AsyncGenerator
from typing import Annotated
from urllib.parse import parse_qsl

import msgspec

from ragqueue.adapters import Given
from ragqueue.errors import ConfigError, GenerationFailed
from ragqueue.generators.base import Generator
from ragqueue.types import Delta, Prompt

_VOCABULARY = "queue holds every job until one worker claims it and writes its answer for all here"
WORDS = tuple(_VOCABULARY.split())
SENTENCE = 12  # words
CITED = 3  # the first passages are cited in turn
_RANGE = msgspec.Meta(ge=0, lt=10**9)


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rate: Annotated[float, _RANGE] = 0.0  # tokens a second; 0: as fast as possible
    tokens: Annotated[int, _RANGE] = 100
    stamp: bool = False  # each token ends with ` @SECONDS.MICROS`, the time it was emitted
    continues: bool = True
    cite: bool = True  # each sentence ends with a marker, when there are passages

    def token(self, seed: int, n: int, passages: int, now: float | None = None) -> str:
        """Return the n-th token, the same for the same seed.

        Emitted `now`, it has its stamp (of one length until 2286).
        """
        word = WORDS[seed_of(f"{seed} {n}") % len(WORDS)]
        place = n % SENTENCE
        if place == 0:
            word = word.capitalize()
        if place == SENTENCE - 1 or n == self.tokens - 1:
            word += self._end_of(n // SENTENCE, passages)
        if n > 0:
            word = f" {word}"
        if self.stamp and now is not None:
            word += f" @{now:017.6f}"
        return word

    def _end_of(self, sentence: int, passages: int) -> str:
        """Return how a sentence ends: with the marker of a passage, and a stop."""
        if not self.cite or passages == 0:
            return "."
        number = sentence % min(CITED, passages) + 1
        return f" [{number}]."

    def resume(self, seed: int, passages: int, prefix: str) -> tuple[int, int] | None:
        """Return (token, how many characters of it are written) where the prefix breaks off.

        Returns None when it is another text.
        """
        rest = prefix
        for n in range(self.tokens):
            token = self.token(seed, n, passages)
            if not rest.startswith(token[: len(rest)]):
                return None
            size = len(self.token(seed, n, passages, now=0.0))
            if size > len(rest):
                return n, len(rest)
            rest = rest[size:]
        if rest:
            return None
        return self.tokens, 0


def seed_of(question: str) -> int:
    """Return the number that all words of an answer follow from."""
    return zlib.crc32(question.encode("utf-8", "replace"))


class ScriptedGenerator(Generator):
    model = "scripted"
    passages = 6  # more would only make the log of a bench heavier

    def __init__(self, options: str = "") -> None:
        """Take `rate=20&tokens=100&stamp=1&continues=0&cite=1`.

        Raises ConfigError that names what is wrong.
        """
        values = dict(parse_qsl(options, keep_blank_values=True))
        try:
            self.script = msgspec.convert(values, Script, strict=False)
        except msgspec.ValidationError as error:
            names = ", ".join(Script.__struct_fields__)
            raise ConfigError(f"LLM_MODEL=scripted:{options}: {error}; use {names}") from error
        self.continues = self.script.continues

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        began = time.monotonic()
        script = self.script
        seed = seed_of(prompt.question)
        passages = len(prompt.hits)
        prefix = prompt.prefix if self.continues else ""
        place = script.resume(seed, passages, prefix)
        if place is None:
            raise GenerationFailed(
                "the text so far was not written by this script: it cannot be continued"
            )
        first, written = place
        for n in range(first, script.tokens):
            due = began
            if script.rate:
                # By the clock, not by the last token: a late token does not push back the rest.
                due += (n - first) / script.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            token = script.token(seed, n, passages, now=time.time())
            if n == first:
                token = token[written:]
            yield Delta(text=token)
        yield Delta(finish="stop", usage={"output_tokens": script.tokens - first})


def open(given: Given) -> ScriptedGenerator:
    """Return the generator of `scripted:rate=20&tokens=100`. Raises ConfigError."""
    return ScriptedGenerator(given.name)

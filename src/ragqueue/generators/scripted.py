"""Answer by a script, for tests and benches: the same words for the same question, each at its time."""

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

WORDS = (
    "queue",
    "holds",
    "every",
    "job",
    "until",
    "one",
    "worker",
    "claims",
    "it",
    "and",
    "writes",
    "its",
    "answer",
    "for",
    "all",
    "here",
)
SENTENCE = 12  # words
CITED = 3  # the first passages are cited in turn
_RANGE = msgspec.Meta(ge=0, lt=10**9)


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rate: Annotated[float, _RANGE] = 0.0  # tokens a second; 0: as fast as possible
    tokens: Annotated[int, _RANGE] = 100
    stamp: bool = False  # each token ends with ` @SECONDS.MICROS`, the time it was emitted
    continues: bool = True
    cite: bool = True  # each sentence ends with a marker, when there are passages

    def token(self, seed: int, at: int, passages: int, now: float | None = None) -> str:
        """Return the token at this place, the same for the same seed; emitted `now`, it has its stamp (of one length until 2286)."""
        word = WORDS[seed_of(f"{seed} {at}") % len(WORDS)]
        word = word.capitalize() if at % SENTENCE == 0 else word
        if at % SENTENCE == SENTENCE - 1 or at == self.tokens - 1:
            word += (
                f" [{at // SENTENCE % min(CITED, passages) + 1}]."
                if self.cite and passages
                else "."
            )
        word = " " + word if at else word
        return word if now is None or not self.stamp else f"{word} @{now:017.6f}"

    def resume(self, seed: int, passages: int, prefix: str) -> tuple[int, int] | None:
        """Return (token, characters of it that were said) where the prefix breaks off; None when it is another text."""
        for at in range(self.tokens):
            if not prefix.startswith(self.token(seed, at, passages)[: len(prefix)]):
                return None
            size = len(self.token(seed, at, passages, now=0.0))
            if size > len(prefix):
                return at, len(prefix)
            prefix = prefix[size:]
        return None if prefix else (self.tokens, 0)


def seed_of(question: str) -> int:
    """Return the number that all words of an answer follow from."""
    return zlib.crc32(question.encode("utf-8", "replace"))


class ScriptedGenerator(Generator):
    model = "scripted"
    passages = 6  # more would only make the log of a bench heavier

    def __init__(self, options: str = "") -> None:
        """Take `rate=20&tokens=100&stamp=1&continues=0&cite=1`. Raises ConfigError that names what is wrong."""
        try:
            self.script = msgspec.convert(
                dict(parse_qsl(options, keep_blank_values=True)), Script, strict=False
            )
        except msgspec.ValidationError as error:
            raise ConfigError(
                f"LLM_MODEL=scripted:{options}: {error}; use {', '.join(Script.__struct_fields__)}"
            ) from error
        self.continues = self.script.continues

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        script, seed, passages, began = (
            self.script,
            seed_of(prompt.question),
            len(prompt.hits),
            time.monotonic(),
        )
        place = script.resume(seed, passages, prompt.prefix if self.continues else "")
        if place is None:
            raise GenerationFailed(
                "the text so far was not written by this script: it cannot be continued"
            )
        for at in range(place[0], script.tokens):
            # By the clock, not by the last token: a late token does not push back the rest.
            due = began + (at - place[0]) / script.rate if script.rate else 0.0
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            text = script.token(seed, at, passages, now=time.time())
            yield Delta(text[place[1] :] if at == place[0] else text)
        yield Delta(finish="stop", usage={"output_tokens": script.tokens - place[0]})


def open(given: Given) -> ScriptedGenerator:
    """Return the generator of `scripted:rate=20&tokens=100`. Raises ConfigError."""
    return ScriptedGenerator(given.name)

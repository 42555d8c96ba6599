"""Answer by a script: known words at a known pace, for tests and benches."""

import asyncio
import time
import zlib
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Self

import msgspec

from ragqueue.errors import ConfigError, GenerationFailed
from ragqueue.generators.base import Generator
from ragqueue.types import Delta, Prompt

WORDS = (
    "queue", "holds", "every", "job", "until", "one", "worker", "claims", "it", "and", "writes", "its", "answer", "token", "by", "while",
    "readers", "follow", "from", "any", "point", "a", "lease", "ends", "when", "the", "owner", "falls", "silent", "then", "another", "goes",
)  # fmt: skip
SENTENCE = 12  # words
CITED = 3  # the first passages are cited in turn
_RANGE = msgspec.Meta(ge=0, lt=10**9)


class Script(msgspec.Struct, frozen=True):
    """What to say and how fast."""

    rate: Annotated[float, _RANGE] = 0.0  # tokens a second; 0: as fast as possible
    tokens: Annotated[int, _RANGE] = 100
    stamp: bool = False  # each token ends with ` @SECONDS.MICROS`, the time it was emitted
    continues: bool = True
    cite: bool = True  # each sentence ends with a marker, when there are passages

    def token(self, seed: int, at: int, passages: int) -> str:
        """Return the token at this place, without its stamp: the same for the same seed."""
        mixed = (seed + at * 0x9E3779B1) & 0xFFFFFFFF
        word = WORDS[((mixed ^ mixed >> 15) * 0x2C1B3C6D >> 8) % len(WORDS)]
        word = word.capitalize() if at % SENTENCE == 0 else word
        if at % SENTENCE == SENTENCE - 1 or at == self.tokens - 1:
            word += f" [{at // SENTENCE % min(CITED, passages) + 1}]." if self.cite and passages else "."
        return " " + word if at else word

    def stamped(self, token: str, now: float) -> str:
        """Return the token as it is emitted now; all stamps have one length (until 2286)."""
        return f"{token} @{now:017.6f}" if self.stamp else token

    def resume(self, seed: int, passages: int, prefix: str) -> tuple[int, int] | None:
        """Return (token, characters of it that were said) where the prefix breaks off; None when it is another text."""
        at = place = 0
        while place < len(prefix) and at < self.tokens:
            token = self.token(seed, at, passages)
            if not prefix.startswith(token[: len(prefix) - place], place):
                return None
            size = len(self.stamped(token, 0.0))
            if place + size > len(prefix):
                return at, len(prefix) - place
            place, at = place + size, at + 1
        return (at, 0) if place == len(prefix) else None


def parse(options: str) -> Script:
    """Read `rate=20&tokens=100`, with or without `scripted:` before it. Raises ConfigError that names what is wrong."""
    values: dict[str, Any] = {}
    known = {field.name: field.type for field in msgspec.structs.fields(Script)}
    for part in filter(None, options.removeprefix("scripted").removeprefix(":").split("&")):
        name, _, value = part.partition("=")
        if name not in known:
            raise ConfigError(f"unknown option {name!r} of the scripted model: use {', '.join(known)}")
        try:
            values[name] = msgspec.convert(value, known[name], strict=False)
        except msgspec.ValidationError as error:
            wanted = "0 or 1" if known[name] is bool else "a number from 0 on"
            raise ConfigError(f"the scripted model's {name} is {value!r}: use {wanted}") from error
    return Script(**values)


def seed_of(question: str) -> int:
    """Return the number that all words of an answer follow from."""
    return zlib.crc32(question.encode("utf-8", "replace"))


class ScriptedGenerator(Generator):
    """Says the same words for the same question, each at its time."""

    model = "scripted"

    def __init__(self, script: Script | None = None) -> None:
        self._script = script or Script()
        self.continues = self._script.continues

    @classmethod
    def parse(cls, options: str) -> Self:
        """Make one from `rate=20&tokens=100&stamp=1&continues=0&cite=1`. Raises ConfigError that names what is wrong."""
        return cls(parse(options))

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Delta, None]:
        """Yield a token at a time. Raises GenerationFailed when the prefix is not its own."""
        script, seed, passages = self._script, seed_of(prompt.question), len(prompt.hits)
        place = script.resume(seed, passages, prompt.prefix if self.continues else "")
        if place is None:
            raise GenerationFailed("the text so far was not written by this script: it cannot be continued")
        first, skip = place
        began = time.monotonic()
        for at in range(first, script.tokens):
            # By the clock, not by the last token: a late token does not push back the rest.
            due = began + (at - first) / script.rate - time.monotonic() if script.rate else 0.0
            await asyncio.sleep(max(0.0, due))
            text = script.stamped(script.token(seed, at, passages), time.time())
            yield Delta(text[skip:] if at == first else text)
        yield Delta(finish="stop", usage={"output_tokens": script.tokens - first})

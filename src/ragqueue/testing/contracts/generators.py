"""What every generator does: subclass `GeneratorContract` and give it a `generator` fixture."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from ragqueue.generators.base import Generator
from ragqueue.types import Chunk, Delta, Hit, Prompt

TEXTS = (
    "A queue carries jobs to workers. A lost ring is found by the reconciler within two seconds. Rings may arrive twice.",
    "# Leases\n\nA lease lasts ten seconds. When its worker falls silent, another worker claims the job and goes on.",
    "The event log keeps every token in order. Readers resume from any point, and none is shown twice.",
)


def make_hits(*texts: str) -> list[Hit]:
    """Return hits over passages of documents d1, d2, ..., each starting at offset 100."""
    return [Hit(Chunk(n, f"d{n}", 1, 100, 100 + len(text), text), 1 / n, cosine=0.8, keyword=0.5) for n, text in enumerate(texts, 1)]


def make_prompt(question: str = "What happens to a job when its worker falls silent?", prefix: str = "") -> Prompt:
    """Return a prompt over TEXTS."""
    return Prompt(question, make_hits(*TEXTS), "Answer from the sources.", f"Sources: ...\n\nQuestion: {question}", prefix)


async def collect(generator: Generator, prompt: Prompt) -> list[Delta]:
    """Return all deltas of one answer."""
    async with asyncio.timeout(10):
        return [delta async for delta in generator.stream(prompt)]


async def text_of(generator: Generator, prompt: Prompt) -> str:
    """Return the text of one answer."""
    return "".join(delta.text for delta in await collect(generator, prompt))


class GeneratorContract:
    """The same words for the same prompt are expected here, though not of every model."""

    async def test_only_the_last_delta_carries_a_finish_reason(self, generator: Generator) -> None:
        *earlier, last = await collect(generator, make_prompt())

        assert last.finish in ("stop", "length")
        assert earlier
        assert all(delta.finish is None and delta.text for delta in earlier)

    async def test_an_answer_that_broke_off_anywhere_is_continued_or_begun_anew(self, generator: Generator) -> None:
        whole = await text_of(generator, make_prompt())

        for cut in range(0, len(whole) + 1, 7):
            rest = await text_of(generator, replace(make_prompt(), prefix=whole[:cut]))
            assert rest == (whole[cut:] if generator.continues else whole), cut

    async def test_a_complete_answer_is_only_finished(self, generator: Generator) -> None:
        if not generator.continues:
            pytest.skip("it begins anew")
        whole = await text_of(generator, make_prompt())

        deltas = await collect(generator, make_prompt(prefix=whole))

        assert [delta.finish for delta in deltas] == ["stop"]

    async def test_two_streams_at_once_do_not_mix(self, generator: Generator) -> None:
        first, second = make_prompt(), make_prompt("How long does a lease last?")
        alone = [await text_of(generator, first), await text_of(generator, second)]

        together = list(await asyncio.gather(text_of(generator, first), text_of(generator, second)))

        assert together == alone

    async def test_a_stream_closed_early_does_not_spoil_the_next(self, generator: Generator) -> None:
        whole = await text_of(generator, make_prompt())
        async with aclosing(generator.stream(make_prompt())) as stream:
            await anext(stream)

        assert await text_of(generator, make_prompt()) == whole

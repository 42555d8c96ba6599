"""What every generator does: subclass the contract and give the fixture `generator`.

It must say the same for the same prompt.
"""

import asyncio
from contextlib import aclosing

from ragqueue.generators.base import Generator
from ragqueue.types import Chunk, Delta, Hit, Prompt

TEXTS = (
    "A queue carries jobs to workers. A lost ring is found by the reconciler within two seconds. "
    "Rings may arrive twice.",
    "# Leases\n\nA lease lasts ten seconds. When its worker falls silent, "
    "another worker claims the job and goes on.",
    "The event log keeps every token in order. Readers resume from any point, "
    "and none is shown twice.",
)
OFFSET = 100  # where each passage starts in its document


def make_hits(*texts: str) -> list[Hit]:
    """Return hits over passages of documents d1, d2, ..., each starting at offset 100."""
    return [make_hit(n, text) for n, text in enumerate(texts, 1)]


def make_hit(n: int, text: str) -> Hit:
    chunk = Chunk(
        number=n,
        document_id=f"d{n}",
        version=1,
        start=OFFSET,
        end=OFFSET + len(text),
        text=text,
    )
    return Hit(chunk=chunk, score=1 / n, cosine=0.8, keyword=0.5)


def make_prompt(
    question: str = "What happens to a job when its worker falls silent?", prefix: str = ""
) -> Prompt:
    return Prompt(
        question=question,
        hits=make_hits(*TEXTS),
        system="Answer from the sources.",
        user=f"Sources: ...\n\nQuestion: {question}",
        prefix=prefix,
    )


async def collect(generator: Generator, prompt: Prompt) -> list[Delta]:
    async with asyncio.timeout(10):
        return [delta async for delta in generator.stream(prompt)]


async def text_of(generator: Generator, prompt: Prompt) -> str:
    deltas = await collect(generator, prompt)
    return "".join(delta.text for delta in deltas)


class GeneratorContract:
    async def test_only_the_last_delta_carries_a_finish_reason(self, generator: Generator) -> None:
        *earlier, last = await collect(generator, make_prompt())
        assert last.finish in ("stop", "length")
        assert earlier
        assert all(delta.finish is None and delta.text for delta in earlier)

    async def test_an_answer_that_broke_off_anywhere_is_continued_or_begun_anew(
        self, generator: Generator
    ) -> None:
        whole = await text_of(generator, make_prompt())
        for cut in (*range(0, len(whole), 7), len(whole)):
            deltas = await collect(generator, make_prompt(prefix=whole[:cut]))
            text = "".join(delta.text for delta in deltas)
            assert text == (whole[cut:] if generator.continues else whole), cut
            assert deltas[-1].finish in ("stop", "length")

    async def test_streams_at_once_and_one_closed_early_do_not_disturb_each_other(
        self, generator: Generator
    ) -> None:
        first = make_prompt()
        second = make_prompt("How long does a lease last?")
        alone = [await text_of(generator, first), await text_of(generator, second)]
        async with aclosing(generator.stream(first)) as stream:
            await anext(stream)
            texts = await asyncio.gather(text_of(generator, first), text_of(generator, second))
            assert list(texts) == alone
        assert await text_of(generator, first) == alone[0]

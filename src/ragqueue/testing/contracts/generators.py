"""What every generator does: subclass the contract and give the fixture `generator`, which says the same for the same prompt."""

import asyncio
from contextlib import aclosing

from ragqueue.generators.base import Generator
from ragqueue.types import Chunk, Delta, Hit, Prompt

TEXTS = (
    "A queue carries jobs to workers. A lost ring is found by the reconciler within two seconds. Rings may arrive twice.",
    "# Leases\n\nA lease lasts ten seconds. When its worker falls silent, another worker claims the job and goes on.",
    "The event log keeps every token in order. Readers resume from any point, and none is shown twice.",
)


def make_hits(*texts: str) -> list[Hit]:
    """Return hits over passages of documents d1, d2, ..., each starting at offset 100."""
    return [
        Hit(Chunk(n, f"d{n}", 1, 100, 100 + len(text), text), 1 / n, cosine=0.8, keyword=0.5)
        for n, text in enumerate(texts, 1)
    ]


def make_prompt(
    question: str = "What happens to a job when its worker falls silent?", prefix: str = ""
) -> Prompt:
    return Prompt(
        question,
        make_hits(*TEXTS),
        "Answer from the sources.",
        f"Sources: ...\n\nQuestion: {question}",
        prefix,
    )


async def collect(generator: Generator, prompt: Prompt) -> list[Delta]:
    async with asyncio.timeout(10):
        return [delta async for delta in generator.stream(prompt)]


async def text_of(generator: Generator, prompt: Prompt) -> str:
    return "".join(delta.text for delta in await collect(generator, prompt))


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
            *said, last = await collect(generator, make_prompt(prefix=whole[:cut]))
            assert "".join(delta.text for delta in (*said, last)) == (
                whole[cut:] if generator.continues else whole
            ), cut
            assert last.finish in ("stop", "length")

    async def test_streams_at_once_and_one_closed_early_do_not_disturb_each_other(
        self, generator: Generator
    ) -> None:
        first, second = make_prompt(), make_prompt("How long does a lease last?")
        alone = [await text_of(generator, first), await text_of(generator, second)]
        async with aclosing(generator.stream(first)) as stream:
            await anext(stream)
            assert (
                list(await asyncio.gather(text_of(generator, first), text_of(generator, second)))
                == alone
            )
        assert await text_of(generator, first) == alone[0]

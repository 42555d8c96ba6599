"""What every generator does: subclass the contract and give the fixture `generator`.

It must say the same for the same prompt. One that asks a server subclasses `ServedContract`, too,
and gives `server`, a simulator that fails as a question with `FAULT:name` says, and `unreachable`.
"""

import asyncio
from contextlib import aclosing
from typing import Protocol

import pytest

from ragqueue.errors import BackendError, Unavailable
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


class Server(Protocol):
    """What a simulator tells of itself."""

    async def said(self, prompt: Prompt) -> str:
        """Return the whole text of the answer that it gives to a prompt."""

    async def heard(self) -> str:
        """Return the text of the messages of the last request."""

    async def quiet(self) -> None:
        """Wait until no answer is being sent."""


class ServedContract:
    async def test_every_character_of_the_server_arrives(
        self, generator: Generator, server: Server
    ) -> None:
        prompt = make_prompt()
        assert await text_of(generator, prompt) == await server.said(prompt)

    async def test_the_server_hears_the_instructions_and_the_passages(
        self, generator: Generator, server: Server
    ) -> None:
        prompt = make_prompt()
        await collect(generator, prompt)
        heard = await server.heard()
        assert prompt.system in heard
        assert prompt.user in heard

    async def test_the_last_delta_carries_the_counts_of_tokens(self, generator: Generator) -> None:
        deltas = await collect(generator, make_prompt())
        assert set(deltas[-1].usage) == {"input_tokens", "output_tokens"}

    async def test_an_answer_at_its_limit_ends_with_length(self, generator: Generator) -> None:
        deltas = await collect(generator, make_prompt("FAULT:length"))
        assert deltas[-1].finish == "length"

    @pytest.mark.parametrize("fault", ["cut", "malformed", "error", "500"])
    async def test_an_answer_that_fails_is_an_error_to_try_again(
        self, generator: Generator, fault: str
    ) -> None:
        with pytest.raises(BackendError) as caught:
            await collect(generator, make_prompt(f"FAULT:{fault}"))
        assert caught.value.retryable

    async def test_a_model_that_is_not_there_is_not_tried_again(self, generator: Generator) -> None:
        with pytest.raises(BackendError) as caught:
            await collect(generator, make_prompt("FAULT:404"))
        assert not caught.value.retryable

    async def test_a_server_that_is_away_is_unavailable(self, unreachable: Generator) -> None:
        with pytest.raises(Unavailable):
            await collect(unreachable, make_prompt())

    async def test_closing_early_ends_the_call(self, generator: Generator, server: Server) -> None:
        async with (
            asyncio.timeout(10),
            aclosing(generator.stream(make_prompt("FAULT:hang"))) as stream,
        ):
            await anext(stream)
        async with asyncio.timeout(10):
            await server.quiet()

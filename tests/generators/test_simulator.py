"""The simulated model server, with the official client."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from ragqueue.generators.openai import OpenAIGenerator
from ragqueue.generators.scripted import Script
from ragqueue.testing.contracts.generators import make_prompt, text_of
from ragqueue.testing.openai_server import OpenAISimulator

MESSAGES: Any = [{"role": "user", "content": "How long does a lease last?"}]


@pytest.fixture
async def server() -> AsyncIterator[OpenAISimulator]:
    async with OpenAISimulator(Script(tokens=10)) as simulator:
        yield simulator


@pytest.fixture
async def client(server: OpenAISimulator) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=server.url, api_key="x", max_retries=0) as client:
        yield client


async def test_the_official_client_reads_the_same_text_whole_and_streamed(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model="sim", messages=MESSAGES)
    stream = await client.chat.completions.create(model="sim", messages=MESSAGES, stream=True)

    streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert whole.choices[0].message.content == streamed
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 10


async def test_the_official_client_lists_its_model(client: openai.AsyncOpenAI) -> None:
    assert [model.id for model in (await client.models.list()).data] == ["sim"]


async def test_it_counts_requests_and_tokens(server: OpenAISimulator, client: openai.AsyncOpenAI) -> None:
    await client.chat.completions.create(model="sim", messages=MESSAGES)

    assert (server.requests, server.sent, server.active) == (1, 10, 0)


async def test_a_fault_strikes_the_request_of_its_number_only() -> None:
    async with OpenAISimulator(faults={1: "500"}) as server, openai.AsyncOpenAI(base_url=server.url, api_key="x", max_retries=0) as client:
        await client.chat.completions.create(model="sim", messages=MESSAGES)
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="sim", messages=MESSAGES)
        await client.chat.completions.create(model="sim", messages=MESSAGES)


async def test_a_share_of_the_requests_is_struck_the_same_for_one_seed() -> None:
    async def struck() -> list[bool]:
        async with OpenAISimulator(fault="500", probability=0.5, seed=3) as server:
            return [server.begin("", {}) == "500" for _ in range(50)]

    first = await struck()

    assert 10 < sum(first) < 40
    assert await struck() == first


def test_an_unknown_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="'explode'"):
        OpenAISimulator(fault="explode")


async def test_a_client_slower_than_the_server_gets_every_token() -> None:
    async with OpenAISimulator(Script(tokens=30_000)) as server:
        generator = OpenAIGenerator("sim", base_url=server.url, api_key=None)
        text = await text_of(generator, make_prompt())
        await generator.close()

    assert len(text.split(" ")) == 30_000


async def test_the_command_prints_its_url_and_serves() -> None:
    command = [sys.executable, "-m", "ragqueue.testing.openai_server", "--tokens", "5"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            url = (await process.stdout.readline()).decode().strip()
        generator = OpenAIGenerator("sim", base_url=url, api_key=None)
        text = await text_of(generator, make_prompt())
        await generator.close()
    finally:
        process.kill()
        await process.wait()

    assert len(text.split()) == 5

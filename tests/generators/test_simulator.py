"""The simulated model server, with the official client."""

import asyncio
import sys

import openai

from ragqueue.generators.openai import OpenAIGenerator
from ragqueue.testing.contracts.generators import make_prompt, text_of
from ragqueue.testing.openai_server import OpenAISimulator


async def test_the_official_client_reads_its_stream() -> None:
    async with (
        OpenAISimulator("tokens=10") as server,
        openai.AsyncOpenAI(base_url=server.url, api_key="x") as client,
    ):
        stream = await client.chat.completions.create(
            model="sim",
            messages=[{"role": "user", "content": "How long?"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert len(text.split()) == 10
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 10
    assert (len(server.requests), server.active) == (1, 0)


async def test_an_answer_as_fast_as_possible_is_whole() -> None:
    async with OpenAISimulator("tokens=30000") as server:
        generator = OpenAIGenerator("sim", base_url=server.url, api_key=None)
        text = await text_of(generator, make_prompt())
        await generator.close()

    assert len(text.split(" ")) == 30_000


async def test_the_command_prints_its_url_and_serves() -> None:
    command = [sys.executable, "-m", "ragqueue.testing.openai_server", "tokens=5"]
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

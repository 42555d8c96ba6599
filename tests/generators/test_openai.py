"""The OpenAI generator against the simulator: every fault, on a real socket."""

import asyncio
import logging
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from ragqueue.errors import ConfigError, GenerationFailed, Unavailable
from ragqueue.generators import openai
from ragqueue.generators.base import Generator
from ragqueue.generators.openai import OpenAIGenerator
from ragqueue.generators.openai_answer import Answer
from ragqueue.testing.contracts.generators import (
    GeneratorContract,
    ServedContract,
    collect,
    make_prompt,
    text_of,
)
from ragqueue.testing.openai_server import FAULT_AFTER, RETRY_AFTER, OpenAISimulator

KEY = "sk-secret-key"


@pytest.fixture
async def server() -> AsyncIterator[OpenAISimulator]:
    async with OpenAISimulator("tokens=20") as simulator:
        yield simulator


@asynccontextmanager
async def client(server: OpenAISimulator, **options: Any) -> AsyncIterator[OpenAIGenerator]:
    generator = OpenAIGenerator("sim", base_url=server.url, api_key=KEY, **options)
    try:
        yield generator
    finally:
        await generator.close()


class TestOpenAI(GeneratorContract, ServedContract):
    @pytest.fixture
    async def unreachable(self) -> AsyncIterator[Generator]:
        generator = OpenAIGenerator("sim", base_url="http://127.0.0.1:1/v1", api_key=KEY)
        yield generator
        await generator.close()

    @pytest.fixture
    async def generator(self, server: OpenAISimulator) -> AsyncIterator[Generator]:
        async with client(server) as generator:
            yield generator


class TestOpenAIThatContinues(GeneratorContract):
    @pytest.fixture
    async def generator(self, server: OpenAISimulator) -> AsyncIterator[Generator]:
        async with client(server, continues=True) as generator:
            yield generator


def url_of(listener: asyncio.Server) -> str:
    port = listener.sockets[0].getsockname()[1]
    return f"http://127.0.0.1:{port}/v1"


async def broken(generator: Generator, question: str) -> tuple[GenerationFailed, str]:
    """Return the error that ends an answer, and the text before it."""
    said: list[str] = []

    async def read() -> None:
        async with asyncio.timeout(10), aclosing(generator.stream(make_prompt(question))) as stream:
            async for delta in stream:
                said.append(delta.text)

    with pytest.raises(GenerationFailed) as caught:
        await read()
    return caught.value, "".join(said)


async def failure(server: OpenAISimulator, fault: str) -> tuple[GenerationFailed, str]:
    """Return the error that a fault leads to, and the text before it."""
    async with client(server) as generator:
        return await broken(generator, f"FAULT:{fault}")


async def test_a_429_says_when_to_come_back(server: OpenAISimulator) -> None:
    error, _ = await failure(server, "429")

    assert error.retryable
    assert error.retry_after == RETRY_AFTER


async def test_a_failing_server_may_be_asked_again(server: OpenAISimulator) -> None:
    error, _ = await failure(server, "500")

    assert error.retryable
    assert "500" in error.message


async def test_one_call_makes_one_request(server: OpenAISimulator) -> None:
    await failure(server, "500")

    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("400", "RAGQUEUE_CONTEXT"),
        ("401", "OPENAI_API_KEY"),
        ("404", "LLM_MODEL"),
        ("429-quota", "billing"),
    ],
)
async def test_what_a_retry_cannot_help_says_what_to_check(
    server: OpenAISimulator, fault: str, told: str
) -> None:
    error, _ = await failure(server, fault)

    assert not error.retryable
    assert told in error.message


@pytest.mark.parametrize("fault", ["silent", "hang-first"])
async def test_a_model_that_says_nothing_is_given_up(
    server: OpenAISimulator, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "FIRST", 0.1)
    error, _ = await failure(server, fault)

    assert error.retryable
    assert "nothing for 0.1 s" in error.message


async def test_a_model_that_falls_silent_is_given_up(
    server: OpenAISimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "GAP", 0.1)
    error, said = await failure(server, "hang")

    assert error.retryable
    assert "nothing for 0.1 s" in error.message
    assert len(said.split()) == FAULT_AFTER


@pytest.mark.parametrize(("fault", "told"), [("cut", "broke"), ("malformed", "no chunk")])
async def test_an_answer_that_breaks_off_is_a_failure_after_the_text_so_far(
    server: OpenAISimulator, fault: str, told: str
) -> None:
    error, said = await failure(server, fault)

    assert error.retryable
    assert told in error.message
    assert len(said.split()) == FAULT_AFTER


async def test_an_empty_answer_is_a_failure(server: OpenAISimulator) -> None:
    error, _ = await failure(server, "empty")

    assert error.retryable
    assert "empty" in error.message


async def test_an_empty_continuation_is_none(server: OpenAISimulator) -> None:
    async with client(server, continues=True) as generator:
        deltas = await collect(generator, make_prompt("FAULT:empty", prefix="Everything was said."))

    assert [delta.finish for delta in deltas] == ["stop"]


async def test_an_empty_answer_of_a_model_that_begins_anew_is_a_failure(
    server: OpenAISimulator,
) -> None:
    async with client(server) as generator:
        with pytest.raises(GenerationFailed, match="empty"):
            await collect(generator, make_prompt("FAULT:empty", prefix="Half an ans"))


async def test_usage_is_passed_on(server: OpenAISimulator) -> None:
    async with client(server) as generator:
        *_, last = await collect(generator, make_prompt())

    assert last.usage["output_tokens"] == 20
    assert last.usage["input_tokens"] > 0


async def test_closing_the_stream_closes_the_connection() -> None:
    async with OpenAISimulator("rate=50&tokens=100000") as server, client(server) as generator:
        async with aclosing(generator.stream(make_prompt())) as stream:
            await anext(stream)
            assert server.active == 1
        async with asyncio.timeout(5):
            await server.quiet()

        assert server.requests[0].transport is None


async def test_cancelling_the_reader_closes_the_connection() -> None:
    async with OpenAISimulator("rate=50&tokens=100000") as server, client(server) as generator:
        first = asyncio.Event()

        async def read() -> None:
            async with aclosing(generator.stream(make_prompt())) as stream:
                async for _ in stream:
                    first.set()

        task = asyncio.create_task(read())
        async with asyncio.timeout(5):
            await first.wait()
            task.cancel()
            await asyncio.wait([task])
            await server.quiet()

        assert server.requests[0].transport is None


async def test_cancelling_before_the_first_byte_closes_the_connection() -> None:
    async with OpenAISimulator() as server, client(server) as generator:
        task = asyncio.create_task(text_of(generator, make_prompt("FAULT:silent")))
        async with asyncio.timeout(5):
            while not server.active:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await server.quiet()

        assert server.requests[0].transport is None


async def test_a_finished_connection_is_used_again(server: OpenAISimulator) -> None:
    async with client(server) as generator:
        for _ in range(3):
            await collect(generator, make_prompt())

    assert (len(server.requests), len({request.protocol for request in server.requests})) == (3, 1)


async def test_more_streams_than_the_default_pool_run_at_once() -> None:
    async with (
        OpenAISimulator("rate=2&tokens=100000") as server,
        client(server, max_connections=130) as generator,
    ):
        streams = [generator.stream(make_prompt()) for _ in range(120)]
        async with asyncio.timeout(30):
            await asyncio.gather(*(anext(stream) for stream in streams))

        assert server.active == 120
        await asyncio.gather(*(stream.aclose() for stream in streams))


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with OpenAISimulator() as server:
        pass
    async with client(server) as generator:
        with pytest.raises(Unavailable, match="is it running"):
            await collect(generator, make_prompt())


async def test_a_server_that_speaks_no_http_is_unavailable() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    listener = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with listener:
        generator = OpenAIGenerator("sim", base_url=url_of(listener), api_key=None)
        with pytest.raises(Unavailable):
            await collect(generator, make_prompt())
        await generator.close()


async def test_a_model_that_continues_is_sent_the_prefix_as_the_last_message(
    server: OpenAISimulator,
) -> None:
    async with client(server) as generator:
        prefix = (await text_of(generator, make_prompt()))[:30]
    async with client(server, continues=True) as generator:
        await collect(generator, make_prompt(prefix=prefix))

    body = await server.requests[-1].json()
    assert body["messages"][-1] == {"role": "assistant", "content": prefix}
    assert body["continue_final_message"] is True
    assert body["add_generation_prompt"] is False


async def test_a_model_that_cannot_continue_is_not_sent_the_prefix(server: OpenAISimulator) -> None:
    async with client(server) as generator:
        await collect(generator, make_prompt(prefix="Half an ans"))

    assert "Half an ans" not in await server.requests[-1].text()


async def test_the_key_is_sent_and_a_missing_one_is_no_error(server: OpenAISimulator) -> None:
    async with client(server) as generator:
        await collect(generator, make_prompt())
    generator = OpenAIGenerator("sim", base_url=server.url, api_key=None)
    await collect(generator, make_prompt())
    await generator.close()

    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("fault", ["", "401", "cut", "hang"])
async def test_neither_prompt_nor_key_is_logged_or_told(
    server: OpenAISimulator,
    fault: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(openai, "GAP", 0.1)
    async with client(server) as generator:
        try:
            await collect(generator, make_prompt(f"my private question FAULT:{fault}"))
            told = ""
        except GenerationFailed as error:
            told = str(error)

    assert KEY not in caplog.text + told
    assert "private question" not in caplog.text + told


def test_a_url_without_a_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL is 'localhost:8000'"):
        OpenAIGenerator("m", base_url="localhost:8000", api_key=None)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_events_are_found_however_the_bytes_arrive(size: int, newline: str) -> None:
    lines = [
        ": ping",
        'data: {"choices":[{"delta":{"content":"one"}}]}',
        "",
        "event: x",
        "id: 3",
        'data:{"choices":[{"delta":{"content":',
        'data: " two"}}]}',
        "",
        "",
        "data: [DONE]",
    ]
    raw = newline.join(lines).encode()
    pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
    answer = Answer()

    said = [answer.take(piece) for piece in [*pieces, b"\n\n"]]

    assert ("".join(said), answer.error) == ("one two", "")


@asynccontextmanager
async def answering(
    body: str, media_type: str = "text/event-stream", missing: int = 0, status: str = "200 OK"
) -> AsyncIterator[OpenAIGenerator]:
    """Give a generator whose server sends this body, but for the bytes `missing` at its end."""
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {media_type}",
        f"Content-Length: {len(body) + missing}",
        "",
        body,
    ]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write("\r\n".join(lines).encode("latin-1"))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        generator = OpenAIGenerator("sim", base_url=url_of(listener), api_key=None)
        yield generator
        await generator.close()


@pytest.mark.parametrize("media_type", ["text/html; charset=utf-8", "application/json"])
async def test_a_page_instead_of_a_stream_names_the_setting(media_type: str) -> None:
    async with answering("<html>", media_type) as generator:
        with pytest.raises(GenerationFailed, match="OPENAI_BASE_URL") as caught:
            await collect(generator, make_prompt())

    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7), ("", None), ("soon", None), ("999999", None)]
)
async def test_a_retry_after_is_a_sensible_number_of_seconds(
    header: str, seconds: float | None
) -> None:
    async with answering("", status=f"503 X\r\nRetry-After: {header}") as generator:
        with pytest.raises(GenerationFailed) as caught:
            await collect(generator, make_prompt())

    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    "event", ["{not json", "[1]", '{"choices":"x"}', '{"choices":[{"delta":{"content":"\xff"}}]}']
)
async def test_an_event_that_is_no_chunk_is_a_failure(event: str) -> None:
    async with answering(f"data: {event}\n\n") as generator:
        with pytest.raises(GenerationFailed, match="no chunk"):
            await collect(generator, make_prompt())


@pytest.mark.parametrize(
    ("end", "told", "retryable"),
    [
        ("", "finish reason", True),
        ('data: {"error":{"message":"died","code":500}}\n\n', "reported an error", True),
        ('data: {"choices":[{"finish_reason":"content_filter"}]}\n\n', "content filter", False),
    ],
)
async def test_an_answer_that_its_server_ends_early_is_a_failure_after_the_text_so_far(
    end: str, told: str, retryable: bool
) -> None:
    begun = 'data: {"choices":[{"delta":{"content":"ok"}}]}\n\n'
    async with answering(begun + end) as generator:
        error, said = await broken(generator, "q")

    assert told in error.message
    assert error.retryable == retryable
    assert said == "ok"


WHOLE = 'data: {"choices":[{"delta":{"content":"ok"},"finish_reason":"stop"}]}'


@pytest.mark.parametrize(
    ("body", "missing"), [(WHOLE, 0), (f"{WHOLE}\n\n", 100)], ids=["last line open", "cut after it"]
)
async def test_what_comes_after_the_finish_reason_may_be_missing(body: str, missing: int) -> None:
    async with answering(body, missing=missing) as generator:
        deltas = await collect(generator, make_prompt())

    assert [(delta.text, delta.finish) for delta in deltas] == [("ok", None), ("", "stop")]


DIALECTS = {
    "finish with the last token": (
        [
            '{"choices":[{"index":0,"delta":{"content":"ok"},"finish_reason":"stop"}],'
            '"usage":{"completion_tokens":1}}'
        ],
        "stop",
    ),
    "no index, null delta": (
        [
            '{"choices":[{"delta":{"content":"ok","tool_calls":[]},"finish_reason":null}],"extra":1}',
            '{"choices":[{"delta":null,"finish_reason":"eos_token"}]}',
        ],
        "stop",
    ),
    "thinking": (
        [
            '{"choices":[{"delta":{"reasoning_content":"hm"}}]}',
            '{"choices":[{"delta":{"content":"ok"}}]}',
            '{"choices":[{"finish_reason":"length"}]}',
        ],
        "length",
    ),
}


@pytest.mark.parametrize(("lines", "finish"), DIALECTS.values(), ids=DIALECTS)
async def test_the_dialects_of_other_servers_are_understood(lines: list[str], finish: str) -> None:
    async with answering("".join(f"data: {line}\n\n" for line in lines)) as generator:
        deltas = await collect(generator, make_prompt())

    assert "".join(delta.text for delta in deltas) == "ok"
    assert deltas[-1].finish == finish


@pytest.mark.parametrize("key", [None, KEY])
async def test_a_url_with_user_and_password_asks_with_them(key: str | None) -> None:
    async with OpenAISimulator("tokens=3") as server:
        url = server.url.replace("http://", "http://bob:s3%40cret@") + "?api-version=2"
        generator = OpenAIGenerator("sim", base_url=url, api_key=key)

        assert await text_of(generator, make_prompt("who?"))

        request = server.requests[0]
        assert request.headers["authorization"] == "Basic " + b64encode(b"bob:s3@cret").decode()
        assert request.query["api-version"] == "2"
        await generator.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://u:SECRET@127.0.0.1:x/v1",
        "u:SECRET@127.0.0.1:1",
        "ftp://u:SECRET@h/v1",
        "http://[u:SECRET@h",
    ],
)
def test_a_url_that_cannot_work_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL") as refused:
        OpenAIGenerator("m", base_url=url, api_key=None)

    assert "SECRET" not in str(refused.value)

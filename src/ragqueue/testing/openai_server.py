"""A small model server that speaks OpenAI's streamed chat completions.

It says known words at a known pace, and fails when asked to.
`python -m ragqueue.testing.openai_server 'rate=20&tokens=100&stamp=1' [PORT]` prints its URL
(the options are those of the scripted model).
"""

import asyncio
import math
import re
import sys
from collections.abc import AsyncGenerator
from typing import Any, Self

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer

from ragqueue.generators.scripted import ScriptedGenerator
from ragqueue.testing.contracts.generators import make_hits
from ragqueue.types import Delta, Prompt

FAULT_AFTER = 5  # tokens
RETRY_AFTER = 2  # seconds, sent with a refusal
# A prompt that contains `FAULT:name` is refused, or its answer is struck after so many tokens:
# silent sends not even headers, hang-first only comments, hang nothing more;
# cut ends without a finish reason, malformed with an event that is no JSON,
# error with one that tells of an error; length ends an answer for its limit.
REFUSALS = {
    "400": "context_length",
    "401": "bad_key",
    "404": "no_model",
    "429": "busy",
    "429-quota": "insufficient_quota",
    "500": "oops",
}
STREAM_FAULTS = {
    "silent": 0,
    "hang-first": 0,
    "empty": 0,
    "hang": FAULT_AFTER,
    "cut": FAULT_AFTER,
    "malformed": FAULT_AFTER,
    "error": FAULT_AFTER,
}
_FAULT = re.compile(r"FAULT:([\w-]+)")
_CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "sim"}


class OpenAISimulator(TestServer):
    """Serves on 127.0.0.1 while the block runs, and keeps what it was asked."""

    def __init__(self, options: str = "tokens=40", *, port: int = 0) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        super().__init__(app, port=port)
        self._model = ScriptedGenerator(options)
        self.requests: list[web.Request] = []
        self.active = 0  # answers that are being sent

    async def __aenter__(self) -> Self:
        await self.start_server(shutdown_timeout=0, access_log=None)
        self.url = str(self.make_url("/v1"))
        return self

    async def said(self, prompt: Prompt) -> str:
        """Return the whole text of the answer to a prompt."""
        asked = _prompt_of([{"role": "user", "content": prompt.user}])
        return "".join([delta.text async for delta in self._model.stream(asked)])

    async def heard(self) -> str:
        """Return the text of the messages of the last request."""
        body = await self.requests[-1].json()
        return "\n".join(message["content"] for message in body["messages"])

    async def quiet(self) -> None:
        """Wait until no answer is being sent."""
        while self.active:
            await asyncio.sleep(0.005)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        body = await request.json()
        match = _FAULT.search(str(body["messages"]))
        fault = match[1] if match else ""
        if fault in REFUSALS:
            return _refusal(fault)
        self.active += 1
        try:
            return await self._answer(request, body, fault)
        finally:
            self.active -= 1

    async def _answer(
        self, request: web.Request, body: dict[str, Any], fault: str
    ) -> web.StreamResponse:
        """Stream one answer; aiohttp cancels what waits for ever when the client goes away."""
        prompt = _prompt_of(body["messages"])
        if fault == "silent":
            await asyncio.Event().wait()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(_choice({"role": "assistant", "content": ""}))
        while fault == "hang-first":
            await response.write(b": still here\n\n")
            await asyncio.sleep(0.02)

        limit = STREAM_FAULTS.get(fault, math.inf)
        tokens = await _write_tokens(response, self._model.stream(prompt), limit)
        await _strike(request, response, fault)

        end = _choice({}, finish="length" if fault == "length" else "stop")
        stream_options = body.get("stream_options") or {}
        if stream_options.get("include_usage"):
            prompt_tokens = len(prompt.question) // 4
            usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}
            end += _event(choices=[], usage=usage)
        await response.write(end + b"data: [DONE]\n\n")
        return response


def _refusal(fault: str) -> web.Response:
    word = REFUSALS[fault]
    return web.json_response(
        {"error": {"message": word, "code": word}},
        status=int(fault[:3]),
        headers={"Retry-After": str(RETRY_AFTER)},
    )


def _prompt_of(messages: list[dict[str, str]]) -> Prompt:
    """Return the prompt of the last user's message, with as many hits as sources stand in it."""
    questions = [message["content"] for message in messages if message["role"] == "user"]
    question = questions[-1]
    last = messages[-1]
    return Prompt(
        question=question,
        hits=make_hits(*re.findall("</source-", question)),
        system="",
        user=question,
        prefix=last["content"] if last["role"] == "assistant" else "",
    )


async def _write_tokens(
    response: web.StreamResponse, deltas: AsyncGenerator[Delta, None], limit: float
) -> int:
    """Write an answer up to so many tokens, and return how many it had."""
    tokens = 0
    while tokens < limit:
        delta = await anext(deltas)
        if delta.finish is not None:
            break
        await response.write(_choice({"content": delta.text}))
        tokens += 1
    return tokens


async def _strike(request: web.Request, response: web.StreamResponse, fault: str) -> None:
    """Break an answer off as its fault says; what is broken off never returns."""
    if fault == "cut" and request.transport:
        request.transport.abort()
    if fault == "malformed":
        await response.write(b"data: {not json\n\n")
    if fault == "error":
        await response.write(_event(error={"message": "out of memory"}))
    if fault in ("cut", "malformed", "error", "hang"):
        await asyncio.Event().wait()


def _choice(delta: dict[str, str], finish: str | None = None) -> bytes:
    return _event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


def _event(**fields: Any) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(_CHUNK | fields)


async def _main(options: str = "", port: str = "0") -> None:
    async with OpenAISimulator(options, port=int(port)) as simulator:
        print(simulator.url, flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))

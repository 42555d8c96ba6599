"""A small model server that speaks OpenAI's streamed chat completions: says known words at a known pace, and fails when asked to.

`python -m ragqueue.testing.openai_server 'rate=20&tokens=100&stamp=1' [PORT]` (the options of the scripted model) prints its URL.
"""

import asyncio
import math
import re
import sys
from typing import Any, Self

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer

from ragqueue.generators.scripted import ScriptedGenerator
from ragqueue.testing.contracts.generators import make_hits
from ragqueue.types import Prompt

FAULT_AFTER = 5  # tokens
RETRY_AFTER = 2  # seconds, sent with a refusal
# A prompt that contains `FAULT:name` is refused, or its answer is struck after so many tokens: silent sends not even headers,
# hang-first only comments, hang nothing more; cut ends without a finish reason, malformed with an event that is no JSON.
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
}
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

    async def quiet(self) -> None:
        """Wait until no answer is being sent."""
        while self.active:
            await asyncio.sleep(0.005)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        body = await request.json()
        fault = next(iter(re.findall(r"FAULT:([\w-]+)", str(body["messages"]))), "")
        if fault in REFUSALS:
            error = {"error": {"message": REFUSALS[fault], "code": REFUSALS[fault]}}
            return web.json_response(
                error, status=int(fault[:3]), headers={"Retry-After": str(RETRY_AFTER)}
            )
        self.active += 1
        try:
            return await self._answer(request, body, fault)
        finally:
            self.active -= 1

    async def _answer(
        self, request: web.Request, body: dict[str, Any], fault: str
    ) -> web.StreamResponse:
        """Stream one answer; aiohttp cancels what waits for ever when the client goes away."""
        messages = body["messages"]
        question = next(
            message["content"] for message in reversed(messages) if message["role"] == "user"
        )
        prefix = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
        stream = self._model.stream(
            Prompt(question, make_hits(*re.findall("</source-", question)), "", question, prefix)
        )
        if fault == "silent":
            await asyncio.Event().wait()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(
            _event(
                choices=[
                    {
                        "index": 0,
                        "delta": {"role": "assistant", "content": ""},
                        "finish_reason": None,
                    }
                ]
            )
        )
        while fault == "hang-first":
            await response.write(b": still here\n\n")
            await asyncio.sleep(0.02)
        said = 0
        while (
            said < STREAM_FAULTS.get(fault, math.inf)
            and (delta := await anext(stream)).finish is None
        ):
            await response.write(
                _event(
                    choices=[{"index": 0, "delta": {"content": delta.text}, "finish_reason": None}]
                )
            )
            said += 1
        if fault == "cut" and request.transport:
            request.transport.abort()
        if fault == "malformed":
            await response.write(b"data: {not json\n\n")
        if fault in ("cut", "malformed", "hang"):
            await asyncio.Event().wait()
        usage = {"prompt_tokens": len(question) // 4, "completion_tokens": said}
        told = (
            _event(choices=[], usage=usage)
            if (body.get("stream_options") or {}).get("include_usage")
            else b""
        )
        await response.write(
            _event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
            + told
            + b"data: [DONE]\n\n"
        )
        return response


def _event(**chunk: Any) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(_CHUNK | chunk)


async def _main(options: str = "", port: str = "0") -> None:
    async with OpenAISimulator(options, port=int(port)) as simulator:
        print(simulator.url, flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))

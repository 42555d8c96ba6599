"""A small model server that speaks OpenAI's streamed chat completions: says known words at a known pace, and fails when asked to.

`python -m ragqueue.testing.openai_server 'rate=20&tokens=100&stamp=1' [PORT]` (the options of the scripted model) prints its URL.
"""

import asyncio
import re
import sys
import time
from typing import Any, Self

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer

from ragqueue.generators.scripted import Script, ScriptedGenerator, seed_of

FAULT_AFTER = 5  # tokens
RETRY_AFTER = 2  # seconds, sent with a refusal
# A prompt that contains `FAULT:name` is refused, or its answer is struck after so many tokens: silent sends not even headers,
# hang-first only comments, hang nothing more; cut ends without a finish reason, malformed with an event that is no JSON.
REFUSALS = {"400": "context_length", "401": "bad_key", "404": "no_model", "429": "busy", "429-quota": "insufficient_quota", "500": "oops"}
STREAM_FAULTS = {"silent": 0, "hang-first": 0, "empty": 0, "hang": FAULT_AFTER, "cut": FAULT_AFTER, "malformed": FAULT_AFTER}
_CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "sim"}
# Written out, because encoding it for every token would cost more than all the rest.
_TOKEN = b'data: %b,"choices":[{"index":0,"delta":{"content":%%b},"finish_reason":null}]}\n\n' % msgspec.json.encode(_CHUNK)[:-1]


class OpenAISimulator(TestServer):
    """Serves on 127.0.0.1 while the block runs, and keeps what it was asked."""

    def __init__(self, script: Script | None = None, *, port: int = 0) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        super().__init__(app, port=port)
        self.script = script or Script(tokens=40)
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
            return web.json_response(error, status=int(fault[:3]), headers={"Retry-After": str(RETRY_AFTER)})
        self.active += 1
        try:
            return await self._answer(request, body, fault)
        finally:
            self.active -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any], fault: str) -> web.StreamResponse:
        """Stream one answer; aiohttp cancels what waits for ever when the client goes away."""
        script, messages = self.script, body["messages"]
        question = next(message["content"] for message in reversed(messages) if message["role"] == "user")
        prefix = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
        seed, passages = seed_of(question), question.count("</source-")
        first, skip = script.resume(seed, passages, prefix) or (0, 0)  # a real model would go on from any text
        end = min(first + STREAM_FAULTS.get(fault, script.tokens), script.tokens)
        if fault == "silent":
            await asyncio.Event().wait()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(_event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]))
        while fault == "hang-first":
            await response.write(b": still here\n\n")
            await asyncio.sleep(0.02)
        assert request.transport is not None
        await self._say(request.transport, seed, passages, first, end, skip)
        if fault == "cut":
            request.transport.abort()
        if fault == "malformed":
            await response.write(b"data: {not json\n\n")
        if fault in ("cut", "malformed", "hang"):
            await asyncio.Event().wait()
        usage = {"prompt_tokens": len(question) // 4, "completion_tokens": end - first}
        told = _event(choices=[], usage=usage) if (body.get("stream_options") or {}).get("include_usage") else b""
        await response.write(_event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]) + told + b"data: [DONE]\n\n")
        return response

    async def _say(self, transport: asyncio.WriteTransport, seed: int, passages: int, first: int, end: int, skip: int) -> None:
        """Send every token that is due whenever one is: by a timer, as a raw chunk, which costs 40 % less than to sleep and `write`."""
        loop, script = asyncio.get_running_loop(), self.script
        began, over, rate = loop.time(), loop.create_future(), script.rate or 100_000  # 0: as fast as possible

        def tick(at: int) -> None:
            if not over.done():  # else the client is gone
                until = min(max(first + int((loop.time() - began) * rate + 1.001), at + 1), end)
                texts = [script.token(seed, n, passages, now=time.time()) for n in range(at, until)]
                texts[0] = texts[0][skip:] if at == first else texts[0]
                events = b"".join([_TOKEN % msgspec.json.encode(text) for text in texts])
                transport.write(b"%x\r\n%b\r\n" % (len(events), events))
                if until < end:
                    loop.call_at(began + (until - first) / rate, tick, until)
                else:
                    over.set_result(None)

        if first < end:
            tick(first)
            await over


def _event(**chunk: Any) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(_CHUNK | chunk)


async def _main(options: str = "", port: str = "0") -> None:
    async with OpenAISimulator(ScriptedGenerator(options).script, port=int(port)) as simulator:
        print(simulator.url, flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))

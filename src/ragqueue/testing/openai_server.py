"""A small model server that speaks OpenAI's chat completions: says known words at a known pace, and fails on demand.

As a command it prints its URL: `python -m ragqueue.testing.openai_server --rate 20 --tokens 100 --stamp`.
"""

import argparse
import asyncio
import random
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

import msgspec

from ragqueue.generators.scripted import Script, seed_of

REFUSALS = {
    "400": ("bad_request", "This model's maximum context length is 16 tokens"), "401": ("invalid_api_key", "Incorrect API key"),
    "404": ("model_not_found", "The model does not exist"), "429": ("rate_limit_exceeded", "Slow down"), "500": ("server_error", "Oops"),
    "503": ("overloaded", "Busy"), "quota": ("insufficient_quota", "No money"),
}  # fmt: skip
FAULT_AFTER = 5  # tokens
RETRY_AFTER = 2  # seconds, sent with a 429
BATCH = 50  # tokens of one write when there is no rate
FULL = 2**16  # bytes that wait for a slow client
# What strikes a stream, with the tokens before it (None: all). silent: not even headers; hang-first: headers, then nothing; ping: comments
# for ever; early-end: a clean end without a finish reason; the last four change how a whole answer ends.
STREAM_FAULTS = {
    "silent": 0, "hang-first": 0, "ping": 0, "empty": 0, "hang": FAULT_AFTER, "cut": FAULT_AFTER, "malformed": FAULT_AFTER,
    "error": FAULT_AFTER, "early-end": FAULT_AFTER, "no-done": None, "no-usage": None, "length": None, "content_filter": None,
}  # fmt: skip

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
_MODELS = {"object": "list", "data": [{"id": "sim", "object": "model", "created": 1, "owned_by": "ragqueue"}]}
_CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "sim"}
# Written out, because encoding it for every token would cost more than all the rest.
_TOKEN = b'data: %b,"choices":[{"index":0,"delta":{"content":%%b},"finish_reason":null}]}\n\n' % msgspec.json.encode(_CHUNK)[:-1]


class OpenAISimulator:
    """Serves on 127.0.0.1 while the block runs, and counts what happens to it."""

    def __init__(
        self, script: Script | None = None, *, first_token: float = 0.0, faults: Mapping[int, str] | None = None, fault: str = "",
        probability: float = 1.0, seed: int = 0, port: int = 0,
    ) -> None:  # fmt: skip
        """`faults` maps the number of a request (from 0) to its fault; `fault` strikes the others with `probability`.

        A prompt that contains `FAULT:name` gets that fault in any case. `first_token` is in seconds.
        """
        unknown = {*(faults or {}).values(), fault or "429"} - {*REFUSALS, *STREAM_FAULTS}
        if unknown:
            raise ValueError(f"unknown fault {sorted(unknown)}: use one of {', '.join([*REFUSALS, *STREAM_FAULTS])}")
        self.script, self.first_token, self._port = script or Script(tokens=40), first_token, port
        self._faults, self._fault, self._probability, self._random = faults or {}, fault, probability, random.Random(seed)
        self.requests = self.sent = self.opened = 0  # requests begun, tokens sent, connections ever opened
        self.active = 0  # answers that are being sent
        self.connections: set[_Client] = set()
        self.bodies: list[dict[str, Any]] = []  # of the last 100 requests
        self.keys: list[str] = []  # their Authorization headers
        self.changed = asyncio.Event()  # an answer is over

    async def quiet(self) -> None:
        """Wait until no answer is being sent."""
        while self.active:
            self.changed.clear()
            await self.changed.wait()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Client(self), "127.0.0.1", self._port)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        clients = list(self.connections)
        for client in clients:
            client.writer.transport.abort()
        await asyncio.gather(*(client.task for client in clients), return_exceptions=True)

    def begin(self, headers: str, body: dict[str, Any]) -> str:
        """Count a request and return its fault."""
        number, self.requests = self.requests, self.requests + 1
        self.bodies = [*self.bodies[-99:], body]
        self.keys = [*self.keys[-99:], *re.findall(r"(?im)^authorization: (.*?)\r?$", headers)]
        if asked := re.search(r"FAULT:([\w-]+)", str(body.get("messages"))):
            return asked[1]
        if number in self._faults:
            return self._faults[number]
        return self._fault if self._fault and self._random.random() < self._probability else ""


class _Answer:
    """The words of one answer, from where the text so far breaks off."""

    def __init__(self, script: Script, body: dict[str, Any]) -> None:
        messages = [(message["role"], str(message["content"])) for message in body["messages"]]
        question = next((content for role, content in reversed(messages) if role == "user"), "")
        self._script, self._seed, self._passages = script, seed_of(question), question.count("</source-")
        self._read = sum(len(content) for _, content in messages) // 4
        prefix = messages[-1][1] if messages and messages[-1][0] == "assistant" else ""
        # A real model would go on from any text; ours begins its own when the prefix is not.
        self.first, self._skip = script.resume(self._seed, self._passages, prefix) or (0, 0)

    def token(self, at: int) -> str:
        text = self._script.stamped(self._script.token(self._seed, at, self._passages), time.time())
        return text[self._skip :] if at == self.first else text

    def usage(self, end: int) -> dict[str, int]:
        said = end - self.first
        return {"prompt_tokens": self._read, "completion_tokens": said, "total_tokens": self._read + said}


class _Client(asyncio.StreamReaderProtocol):
    """One connection. Its task ends when the client goes away: asyncio's own streams would notice at the next write."""

    def __init__(self, server: OpenAISimulator) -> None:
        self._server, self._script, self._reader = server, server.script, asyncio.StreamReader()
        super().__init__(self._reader, self._connected)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server.connections.add(self)
        self._server.opened += 1
        self.writer, self.task = writer, asyncio.create_task(self._serve())
        self.task.add_done_callback(lambda _: writer.close())  # a request that cannot be read ends the connection

    def eof_received(self) -> bool:
        return False  # closes, which calls connection_lost

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server.connections.discard(self)
        self.task.cancel()

    async def _serve(self) -> None:
        while True:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            size = re.search(r"(?im)^content-length: *(\d+)", head)
            raw, target = await self._reader.readexactly(int(size[1]) if size else 0), head.split(" ", 2)[1]
            if target == "/v1/models":
                self._json(200, _MODELS)
            elif target == "/v1/chat/completions":
                await self._chat(head, raw)
            else:
                self._refuse(404, "no_such_path", f"there is no {target}")

    async def _chat(self, head: str, raw: bytes) -> None:
        try:
            body = msgspec.json.decode(raw)
            answer = _Answer(self._script, body)
        except (ValueError, KeyError, TypeError):
            return self._refuse(400, "bad_body", "the body is no chat request")
        fault = self._server.begin(head, body)
        if fault in REFUSALS:
            return self._refuse(429 if fault == "quota" else int(fault), *REFUSALS[fault])
        self._server.active += 1
        try:
            if body.get("stream"):
                await self._stream(answer, fault, usage=bool((body.get("stream_options") or {}).get("include_usage")))
            else:
                await self._whole(answer)
        finally:
            self._server.active -= 1
            self._server.changed.set()

    async def _whole(self, answer: _Answer) -> None:
        tokens = range(answer.first, self._script.tokens)
        await asyncio.sleep(self._server.first_token + (len(tokens) / self._script.rate if self._script.rate else 0.0))
        self._server.sent += len(tokens)
        choice = {"index": 0, "message": {"role": "assistant", "content": "".join(map(answer.token, tokens))}, "finish_reason": "stop"}
        self._json(200, _CHUNK | {"object": "chat.completion", "choices": [choice], "usage": answer.usage(tokens.stop)})

    async def _stream(self, answer: _Answer, fault: str, *, usage: bool) -> None:
        if fault == "silent":
            await _for_ever()
        self.writer.write(_HEAD)
        self._send(_event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}))
        if fault == "hang-first":
            await _for_ever()
        await asyncio.sleep(self._server.first_token)
        stop = STREAM_FAULTS.get(fault)
        end = self._script.tokens if stop is None else min(answer.first + stop, self._script.tokens)
        await self._say(answer, end)
        while fault == "ping":
            self._send(b": still here\n\n")
            await asyncio.sleep(0.02)
        if fault == "cut":
            return self.writer.transport.abort()
        if fault in ("malformed", "error"):
            self._send(b"data: {not json\n\n" if fault == "malformed" else _event({"error": {"message": "died", "code": 500}}))
        if fault in ("malformed", "error", "hang"):
            await _for_ever()
        if fault != "early-end":
            reason = fault if fault in ("length", "content_filter") else "stop"
            told = _event({"choices": [], "usage": answer.usage(end)}) if usage and fault != "no-usage" else b""
            done = b"" if fault == "no-done" else b"data: [DONE]\n\n"
            self._send(_event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}) + told + done)
        self.writer.write(b"0\r\n\r\n")

    async def _say(self, answer: _Answer, end: int) -> None:
        """Send every token that is due whenever one is: by a timer, which costs a fifth less than a coroutine that sleeps."""
        loop, rate, waiting = asyncio.get_running_loop(), self._script.rate, self.writer.transport.get_write_buffer_size
        began, over = loop.time(), loop.create_future()

        def tick(at: int) -> None:
            if over.done():  # the client is gone
                return
            if waiting() > FULL:
                loop.call_later(0.01, tick, at)
                return
            due = answer.first + int((loop.time() - began) * rate + 1.001) if rate else at + BATCH
            until = min(max(due, at + 1), end)
            self._send(b"".join([_TOKEN % msgspec.json.encode(answer.token(n)) for n in range(at, until)]))
            self._server.sent += until - at
            if until < end:
                loop.call_at(began + (until - answer.first) / rate if rate else 0.0, tick, until)
            else:
                over.set_result(None)

        if answer.first < end:
            tick(answer.first)
            await over

    def _send(self, events: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(events), events))

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._json(status, {"error": {"message": message, "type": code, "code": code}})

    def _json(self, status: int, body: Any) -> None:
        data = msgspec.json.encode(body)
        again = f"Retry-After: {RETRY_AFTER}\r\n" if status == 429 else ""
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{again}Content-Length: {len(data)}\r\n\r\n"
        self.writer.write(head.encode() + data)


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(_CHUNK | chunk)


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def _main(options: argparse.Namespace) -> None:
    chosen = vars(options)
    script = Script(cite=not chosen.pop("no_cite"), **{name: chosen.pop(name) for name in ("rate", "tokens", "stamp")})
    async with OpenAISimulator(script, **chosen) as simulator:
        print(simulator.url, flush=True)  # noqa: T201
        await _for_ever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m ragqueue.testing.openai_server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--rate", type=float, default=0.0, help="tokens a second; 0: as fast as possible")
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--first-token", type=float, default=0.0, help="seconds before the first token")
    parser.add_argument("--stamp", action="store_true", help="each token carries the time it was sent")
    parser.add_argument("--no-cite", action="store_true")
    parser.add_argument("--fault", default="", help=", ".join([*REFUSALS, *STREAM_FAULTS]))
    parser.add_argument("--probability", type=float, default=1.0, help="share of the requests that the fault strikes")
    parser.add_argument("--seed", type=int, default=0)
    with suppress(KeyboardInterrupt):
        asyncio.run(_main(parser.parse_args()))

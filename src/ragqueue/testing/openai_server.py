"""A small model server that speaks OpenAI's chat completions: says known words at a known pace, and fails on demand.

As a command it prints its URL: `python -m ragqueue.testing.openai_server --rate 20 --tokens 100 --stamp`.
"""

import argparse
import asyncio
import json
import random
import re
import sys
import time
from collections.abc import Mapping
from typing import Any, Self

from ragqueue.generators.scripted import Script, seed_of

REFUSALS = {
    "400": ("bad_request", "This model's maximum context length is 16 tokens"), "401": ("invalid_api_key", "Incorrect API key"),
    "404": ("model_not_found", "The model does not exist"), "429": ("rate_limit_exceeded", "Slow down"), "500": ("server_error", "Oops"),
    "503": ("overloaded", "Busy"), "quota": ("insufficient_quota", "No money"),
}  # fmt: skip
# hang-first: headers, then nothing; silent: not even headers; ping: comments for ever; empty: no token; the next five strike after FAULT_AFTER tokens
# (early-end: a clean end without a finish reason); the last four change how a whole answer ends.
STREAM_FAULTS = (
    "hang-first", "silent", "ping", "empty", "hang", "cut", "malformed", "error", "early-end", "no-done",
    "no-usage", "length", "content_filter",
)  # fmt: skip
FAULT_AFTER = 5  # tokens
RETRY_AFTER = 2  # seconds, sent with a 429
BATCH = 50  # tokens of one write when there is no rate

_ASKED = re.compile(r"FAULT:([\w-]+)")
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
_CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "sim"}
# Written out, because encoding it for every token would cost more than all the rest.
_TOKEN = f'data: {json.dumps(_CHUNK)[:-1]}, "choices": [{{"index": 0, "delta": {{"content": %s}}, "finish_reason": null}}]}}\n\n'


class OpenAISimulator:
    """Serves on 127.0.0.1 while the block runs, and counts what happens to it."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        first_token: float = 0.0,
        faults: Mapping[int, str] | None = None,
        fault: str = "",
        probability: float = 1.0,
        seed: int = 0,
        port: int = 0,
    ) -> None:
        """`faults` maps the number of a request (from 0) to its fault; `fault` strikes the others with `probability`.

        A prompt that contains `FAULT:name` gets that fault in any case. `first_token` is in seconds.
        """
        unknown = {*(faults or {}).values(), fault or "429"} - {*REFUSALS, *STREAM_FAULTS}
        if unknown:
            raise ValueError(f"unknown fault {sorted(unknown)}: use one of {', '.join([*REFUSALS, *STREAM_FAULTS])}")
        self.script = script or Script(tokens=40)
        self.first_token, self._port = first_token, port
        self._faults, self._fault, self._probability, self._random = dict(faults or {}), fault, probability, random.Random(seed)
        self.requests = self.sent = self.opened = 0  # requests begun, tokens sent, connections ever opened
        self.connections: set[_Connection] = set()
        self.bodies: list[dict[str, Any]] = []  # of the last 100 requests
        self.keys: list[str] = []  # their Authorization headers
        self._quiet = asyncio.Event()

    @property
    def active(self) -> int:
        """How many answers are being sent."""
        return sum(connection.busy for connection in self.connections)

    async def quiet(self) -> None:
        """Wait until no answer is being sent."""
        while self.active:
            self._quiet.clear()
            await self._quiet.wait()

    def changed(self) -> None:
        """Wake those who wait for quiet."""
        self._quiet.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", self._port)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in list(self.connections):
            connection.transport.abort()
        await self._server.wait_closed()

    def begin(self, headers: str, body: dict[str, Any]) -> str:
        """Count a request and return its fault."""
        number, self.requests = self.requests, self.requests + 1
        self.bodies = [*self.bodies[-99:], body]
        self.keys = [*self.keys[-99:], *re.findall(r"(?im)^authorization: (.*?)\r?$", headers)]
        asked = _ASKED.search(json.dumps(body.get("messages", "")))
        if asked:
            return asked[1]
        if number in self._faults:
            return self._faults[number]
        return self._fault if self._fault and self._random.random() < self._probability else ""


class _Connection(asyncio.Protocol):
    """One client: reads requests, one after the other, and streams the answers by a timer."""

    transport: asyncio.Transport

    def __init__(self, server: OpenAISimulator) -> None:
        self._server, self._loop, self._script = server, asyncio.get_running_loop(), server.script
        self._data = b""
        self._timer: asyncio.TimerHandle | None = None
        self._paused = self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._server.connections.add(self)
        self._server.opened += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._over()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._loop.call_later(0, self._tick)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found or self.busy:
            return
        text = head.decode("latin-1")
        size = re.search(r"(?im)^content-length: *(\d+)", text)
        length = int(size[1]) if size else 0
        if len(rest) >= length:
            self._data = rest[length:]
            self._request(text, rest[:length])

    def _request(self, head: str, raw: bytes) -> None:
        target = head.split(" ", 2)[1]
        if target == "/v1/models":
            return self._json(200, {"object": "list", "data": [{"id": "sim", "object": "model", "created": 1, "owned_by": "ragqueue"}]})
        if target != "/v1/chat/completions":
            return self._refuse(404, "no_such_path", f"there is no {target}")
        try:
            body = json.loads(raw)
            self._messages = [(message["role"], str(message["content"])) for message in body["messages"]]
        except (ValueError, KeyError, TypeError):
            return self._refuse(400, "bad_body", "the body is no chat request")
        self._fault = self._server.begin(head, body)
        if self._fault in REFUSALS:
            return self._refuse(429 if self._fault == "quota" else int(self._fault), *REFUSALS[self._fault])
        return self._answer(body)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._json(status, {"error": {"message": message, "type": code, "code": code}})

    def _json(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        again = f"Retry-After: {RETRY_AFTER}\r\n" if status == 429 else ""
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{again}Content-Length: {len(data)}\r\n\r\n"
        self.transport.write(head.encode() + data)

    def _answer(self, body: dict[str, Any]) -> None:
        asked = [content for role, content in self._messages if role == "user"]
        self._seed, self._passages = seed_of("".join(asked[-1:])), "".join(asked[-1:]).count("</source-")
        prefix = self._messages[-1][1] if self._messages and self._messages[-1][0] == "assistant" else ""
        # A real model would go on from any text; ours begins its own when the prefix is not.
        self._first, self._skip = self._script.resume(self._seed, self._passages, prefix) or (0, 0)
        self._at, self.busy = self._first, True
        self._usage = bool((body.get("stream_options") or {}).get("include_usage")) and self._fault != "no-usage"
        if not body.get("stream"):
            seconds = (self._script.tokens - self._first) / self._script.rate if self._script.rate else 0.0
            self._timer = self._loop.call_later(self._server.first_token + seconds, self._whole)
        elif self._fault != "silent":
            self.transport.write(_HEAD)
            self._send(_event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}))
            self._began = self._loop.time() + self._server.first_token
            if self._fault != "hang-first":
                self._timer = self._loop.call_at(self._began, self._tick)

    def _whole(self) -> None:
        text = "".join(self._token(at) for at in range(self._first, self._script.tokens))
        self._at = self._script.tokens
        self._server.sent += self._at - self._first
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        self._json(200, _CHUNK | {"object": "chat.completion", "choices": [choice], "usage": self._counts()})
        self._over()

    def _tick(self) -> None:
        """Send every token that is due, then sleep until the next is."""
        if self._paused:
            return
        script = self._script
        last = self._first + FAULT_AFTER if self._fault in ("hang", "cut", "malformed", "error", "early-end") else script.tokens
        last = self._first if self._fault in ("empty", "ping") else min(last, script.tokens)
        due = self._first + int((self._loop.time() - self._began) * script.rate + 1.001) if script.rate else self._at + BATCH
        if (until := min(due, last)) > self._at:
            self._send("".join(_TOKEN % json.dumps(self._token(at)) for at in range(self._at, until)))
            self._server.sent += until - self._at
            self._at = until
        if self._at < last:
            wait = self._began + (self._at - self._first) / script.rate if script.rate else 0.0
            self._timer = self._loop.call_at(wait, self._tick)
        else:
            self._end()

    def _token(self, at: int) -> str:
        text = self._script.stamped(self._script.token(self._seed, at, self._passages), time.time())
        return text[self._skip :] if at == self._first else text

    def _end(self) -> None:
        if self._fault == "ping":
            self._send(": still here\n\n")
            self._timer = self._loop.call_later(0.02, self._end)
        elif self._fault == "cut":
            self.transport.abort()
        elif self._fault in ("malformed", "error"):
            self._send("data: {not json\n\n" if self._fault == "malformed" else _event({"error": {"message": "died", "code": 500}}))
        elif self._fault == "early-end":
            self._finish("")
        elif self._fault != "hang":
            reason = self._fault if self._fault in ("length", "content_filter") else "stop"
            events = _event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
            events += _event({"choices": [], "usage": self._counts()}) if self._usage else ""
            self._finish(events + ("" if self._fault == "no-done" else "data: [DONE]\n\n"))

    def _counts(self) -> dict[str, int]:
        read, said = sum(len(content) for _, content in self._messages) // 4, self._at - self._first
        return {"prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said}

    def _finish(self, events: str) -> None:
        if events:
            self._send(events)
        self.transport.write(b"0\r\n\r\n")
        self._over()

    def _over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.busy = False
        self._server.changed()

    def _send(self, events: str) -> None:
        data = events.encode()
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(_CHUNK | chunk)}\n\n"


async def _serve(options: argparse.Namespace) -> None:
    script = Script(rate=options.rate, tokens=options.tokens, stamp=options.stamp, cite=not options.no_cite)
    simulator = OpenAISimulator(
        script, first_token=options.first_token, fault=options.fault, probability=options.probability, seed=options.seed, port=options.port
    )
    async with simulator:
        sys.stdout.write(simulator.url + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    """Serve until interrupted."""
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
    try:
        asyncio.run(_serve(parser.parse_args()))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()

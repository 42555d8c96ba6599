"""The peer of `bench stream`: a plain server without queue and log, given the same streams."""

import asyncio
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from campaigns.benches import steady
from campaigns.benches.simulator import SPREAD, simulator
from campaigns.house import QUESTION, clean_environment, events, request
from campaigns.services import free_port

STREAMS = 100
RATE = 20  # tokens a second
STARTS_WITHIN = 30.0  # seconds


def us_per_token(peer: Path, seconds: int) -> float:
    """Return the CPU (us) that the server in `peer` uses for a token of its streams.

    It is started as `peer OPENAI_BASE_URL PORT`, and answers `POST /chat` with an event a token.
    """
    tokens = RATE * seconds
    with ExitStack() as stack:
        port = free_port()
        command = [sys.executable, str(peer), simulator(stack, RATE, tokens), str(port)]
        process = subprocess.Popen(command, env=clean_environment())
        stack.callback(process.wait)
        stack.callback(process.terminate)
        asyncio.run(_until_it_answers(port))
        received, cost = asyncio.run(_watch(port, process.pid, seconds))
    if received != STREAMS * tokens:
        raise SystemExit(f"the peer sent {received} tokens of {STREAMS * tokens}")
    return cost


async def _until_it_answers(port: int) -> None:
    end = time.monotonic() + STARTS_WITHIN
    while True:
        try:
            _, _, writer = await request(port, "GET", "/")
            writer.close()
            return
        except OSError:
            if time.monotonic() > end:
                raise SystemExit("the peer does not answer") from None
            await asyncio.sleep(0.1)


async def _watch(port: int, pid: int, seconds: int) -> tuple[int, float]:
    """Read all streams; return how many tokens came, and what one cost while all of them ran."""
    received: list[int] = []
    streams = [
        asyncio.create_task(_read(port, n * SPREAD / STREAMS, received)) for n in range(STREAMS)
    ]
    await asyncio.sleep(SPREAD + 1.0)
    watched_for = seconds * steady.SHARE
    costs = await steady.us_per_token({"peer": pid}, lambda: len(received), watched_for)
    await asyncio.gather(*streams)
    return len(received), costs["peer"]


async def _read(port: int, wait: float, received: list[int]) -> None:
    """Ask after `wait` seconds, and note each token that comes."""
    await asyncio.sleep(wait)
    body = {"question": QUESTION}
    _, reader, writer = await request(port, "POST", "/chat", body, "text/event-stream")
    async for _, event in events(reader):
        if event.get("delta"):
            received.append(len(received))
    writer.close()

"""The peer of `bench stream`: a plain server without queue and log, given the same streams."""

import asyncio
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from campaigns.benches.simulator import SPREAD, simulator
from campaigns.house import QUESTION, clean_environment, cpu_seconds, events, request
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
        before = cpu_seconds(process.pid)
        received = asyncio.run(_streams(port))
        used = cpu_seconds(process.pid) - before
    if received != STREAMS * tokens:
        raise SystemExit(f"the peer sent {received} tokens of {STREAMS * tokens}")
    return round(used / received * 1e6, 1)


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


async def _streams(port: int) -> int:
    """Ask on all streams, which begin one after the other, and return how many tokens came."""
    reading = [_read(port, n * SPREAD / STREAMS) for n in range(STREAMS)]
    return sum(await asyncio.gather(*reading))


async def _read(port: int, wait: float) -> int:
    await asyncio.sleep(wait)
    body = {"question": QUESTION}
    _, reader, writer = await request(port, "POST", "/chat", body, "text/event-stream")
    received = 0
    async for _, event in events(reader):
        received += 1 if event.get("delta") else 0
    writer.close()
    return received

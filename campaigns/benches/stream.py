"""`bench stream`: what log, hub and HTTP add to a token, and to `POST /chat` meanwhile."""

import argparse
import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from campaigns.benches import peer, steady
from campaigns.benches.simulator import SPREAD, simulator
from campaigns.house import (
    PAGES,
    QUESTION,
    Bench,
    bench,
    cpu_seconds,
    events,
    machine,
    quantile,
    request,
)
from campaigns.services import RedisServer

SECONDS = 20  # of streaming
PROBES_S = 5.0  # `POST /chat` a second while they stream
QUIET_LOAD = 1.5  # a run waits until the load is below
QUIET_WITHIN = 60.0  # seconds that it waits at most
_STAMP = re.compile(r"@(\d+\.\d{6})")


class Setup(NamedTuple):
    """What is measured in one run."""

    log: str
    generator: str
    streams: int
    rate: int  # tokens a second of each


RUNS = [
    Setup("sql", "scripted", 200, 20),
    Setup("sql", "openai", 100, 20),
    Setup("sql", "scripted", 200, 50),
    Setup("redis", "scripted", 200, 20),
    Setup("redis", "openai", 100, 20),
    Setup("redis", "scripted", 200, 50),
]


@dataclass
class Seen:
    """What the clients of one run saw."""

    # ms, of tokens that were emitted once all streams had begun
    delays: list[float] = field(default_factory=list)
    posts: list[float] = field(default_factory=list)  # ms
    tokens: int = 0
    lost: int = 0


def main(argv: list[str]) -> None:
    """Measure what the command line says and print the figures."""
    parser = argparse.ArgumentParser(prog="bench stream")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--log", choices=("sql", "redis"))
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--peer", type=Path, help="A plain server (FILE URL PORT) to compare with")
    options = parser.parse_args(argv)
    setups = [setup for setup in RUNS if options.log in (None, setup.log)]
    runs = []
    inline = []
    for setup in setups:
        run = measure_quietly(setup, options.seconds)
        runs.append(run)
        print(run, file=sys.stderr)
        # Beside each run of its kind: the speed of a machine swings.
        if options.peer is not None and setup.generator == "openai":
            inline.append(peer.us_per_token(options.peer, options.seconds))
            print({"inline_us_per_token": inline[-1]}, file=sys.stderr)
    report: dict[str, object] = {"runs": runs}
    if inline:
        report["inline_us_per_token"] = round(sum(inline) / len(inline), 1)
    print(json.dumps(report | machine()))


def measure_quietly(setup: Setup, seconds: int) -> dict[str, object]:
    """Measure, once the load has gone; say whether that had to be waited for."""
    busy = os.getloadavg()[0] > QUIET_LOAD
    end = time.monotonic() + QUIET_WITHIN
    while os.getloadavg()[0] > QUIET_LOAD and time.monotonic() < end:
        time.sleep(2)
    return measure(setup, seconds) | {"waited_for_quiet": busy}


def measure(setup: Setup, seconds: int) -> dict[str, object]:
    """Run the streams for so many seconds and return the figures of the run."""
    tokens = setup.rate * seconds
    with ExitStack() as stack:
        house = stack.enter_context(bench(environment(stack, setup, tokens)))
        ingest(house)
        api = house.serve().pid
        worker = house.work(setup.streams + 50)
        processes = {"api": api, "worker": worker}
        before = sum(map(cpu_seconds, processes.values()))
        load = round(os.getloadavg()[0], 2)
        seen, costs = asyncio.run(watch(house, setup.streams, tokens, seconds, processes))
        used = sum(map(cpu_seconds, processes.values())) - before
    return {
        **setup._asdict(),
        "tokens": seen.tokens,
        "lost": seen.lost,
        "token_p50_ms": round(quantile(seen.delays, 0.5), 2),
        "token_p99_ms": round(quantile(seen.delays, 0.99), 2),
        "post_p99_ms": round(quantile(seen.posts, 0.99), 2),
        "posts": len(seen.posts),
        "worker_us_per_token": costs["worker"],
        "api_us_per_token": costs["api"],
        "whole_run_us_per_token": round(used / max(1, seen.tokens) * 1e6, 1),
        "load_at_start": load,
    }


def environment(stack: ExitStack, setup: Setup, tokens: int) -> dict[str, str]:
    """Start what a run needs beside ragqueue and return its settings."""
    env = {"RAGQUEUE_QUEUE": "sql"}
    if setup.log == "redis":
        server = stack.enter_context(RedisServer())
        env["RAGQUEUE_QUEUE"] = f"rq+{server.url}"
    if setup.generator == "openai":
        env["LLM_MODEL"] = "openai:sim"
        env["OPENAI_BASE_URL"] = simulator(stack, setup.rate, tokens)
    else:
        env["LLM_MODEL"] = f"scripted:rate={setup.rate}&tokens={tokens}&stamp=1"
    return env


def ingest(house: Bench) -> None:
    """Bring the pages in; queue and model of the run play no part in it."""
    env = house.env
    house.env = {**env, "RAGQUEUE_QUEUE": "sql", "LLM_MODEL": "extractive"}
    house.run("ingest", *map(str, PAGES))
    house.env = env


async def watch(
    house: Bench, streams: int, tokens: int, seconds: int, processes: Mapping[str, int]
) -> tuple[Seen, dict[str, float]]:
    """Read all streams to their ends; what a token costs each process while all of them run.

    Questions are posted after that.
    """
    seen = Seen()
    all_begun = SPREAD + 1.0
    counted_from = time.time() + all_begun
    readers = []
    for n in range(streams):
        reader = Reader(house.port, n, tokens, counted_from, seen)
        readers.append(asyncio.create_task(reader.read(wait=n * SPREAD / streams)))
    await asyncio.sleep(all_begun)
    watched_for = seconds * steady.SHARE
    costs = await steady.us_per_token(processes, lambda: seen.tokens, watched_for)
    probes = asyncio.create_task(probe(house, seen))
    await asyncio.gather(*readers)
    probes.cancel()
    await asyncio.gather(probes, return_exceptions=True)
    return seen, costs


@dataclass
class Reader:
    """One client: asks the question with its number and reads the stream."""

    port: int
    number: int
    tokens: int  # that it must get
    counted_from: float  # time from which a token's delay counts
    seen: Seen

    async def read(self, wait: float) -> None:
        """Ask after `wait` seconds, and read to the end."""
        await asyncio.sleep(wait)
        body = {"question": f"{QUESTION} ({self.number})"}
        status, reader, writer = await request(
            self.port, "POST", "/chat", body, "text/event-stream"
        )
        received = 0
        ended = False
        if status == 200:
            async for now, event in events(reader):
                received += self._take(now, str(event.get("delta", "")))
                if event["type"] == "response.completed":
                    ended = True
                    break
        writer.close()
        self.seen.lost += tokens_lost(self.tokens, received, ended=ended)

    def _take(self, now: float, delta: str) -> int:
        """Note the tokens in a delta and their delays; return how many there are."""
        stamps = [float(stamp) for stamp in _STAMP.findall(delta)]
        for stamp in stamps:
            if stamp >= self.counted_from:
                self.seen.delays.append((now - stamp) * 1000)
        self.seen.tokens += len(stamps)
        return len(stamps)


def tokens_lost(due: int, received: int, *, ended: bool) -> int:
    """Return how many tokens a client did not get; an answer without its end counts as lost."""
    return due - received if ended else due


async def probe(house: Bench, seen: Seen) -> None:
    """Post questions that nobody reads, and cancel them so that they add no stream."""
    while True:
        began = time.perf_counter()
        _, reader, writer = await request(house.port, "POST", "/chat", {"question": QUESTION})
        seen.posts.append((time.perf_counter() - began) * 1000)
        accepted = json.loads(await reader.read())
        writer.close()
        _, _, writer = await request(house.port, "POST", accepted["links"]["cancel"])
        writer.close()
        spent = time.perf_counter() - began
        await asyncio.sleep(max(0.0, 1 / PROBES_S - spent))


if __name__ == "__main__":
    main(sys.argv[1:])

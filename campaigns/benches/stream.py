"""`bench stream`: what the way through log, hub and HTTP adds to a token, and to `POST /chat` meanwhile."""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from campaigns.house import (
    PAGES,
    QUESTION,
    Bench,
    bench,
    clean_environment,
    cpu_seconds,
    events,
    machine,
    quantile,
    request,
)
from campaigns.services import RedisServer

SECONDS = 20  # of streaming
SPREAD = 4.0  # seconds over which the streams begin
PROBES_S = 5.0  # `POST /chat` a second while they stream
QUIET_LOAD = 1.5  # a run that began above it is repeated once
_STAMP = re.compile(r"@(\d+\.\d{6})")

RUNS = [
    (log, generator, streams, rate)
    for log in ("sql", "redis")
    for generator, streams, rate in (
        ("scripted", 200, 20),
        ("openai", 100, 20),
        ("scripted", 200, 50),
    )
]


@dataclass
class Seen:
    """What the clients of one run saw."""

    delays: list[float] = field(
        default_factory=list
    )  # ms, of tokens that were emitted once all streams had begun
    posts: list[float] = field(default_factory=list)  # ms
    tokens: int = 0
    lost: int = 0


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench stream")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--log", choices=("sql", "redis"))
    parser.add_argument("--seconds", type=int, default=SECONDS)
    options = parser.parse_args(argv)
    runs = []
    for log, generator, streams, rate in RUNS:
        if options.log in (None, log):
            runs.append(measure_quietly(log, generator, streams, rate, options.seconds))
            print(runs[-1], file=sys.stderr)
    print(json.dumps({"runs": runs, **machine()}))


def measure_quietly(
    log: str, generator: str, streams: int, rate: int, seconds: int
) -> dict[str, object]:
    """Measure; a run that began under load is repeated once, when the load has gone."""
    busy = os.getloadavg()[0] > QUIET_LOAD
    end = time.monotonic() + 60
    while os.getloadavg()[0] > QUIET_LOAD and time.monotonic() < end:
        time.sleep(2)
    found = measure(log, generator, streams, rate, seconds)
    return found | {"waited_for_quiet": busy}


def measure(log: str, generator: str, streams: int, rate: int, seconds: int) -> dict[str, object]:
    tokens = rate * seconds
    with ExitStack() as stack:
        env = {"RAGQUEUE_QUEUE": "sql"}
        if log == "redis":
            env["RAGQUEUE_QUEUE"] = f"rq+{stack.enter_context(RedisServer()).url}"
        if generator == "openai":
            env |= {"LLM_MODEL": "openai:sim", "OPENAI_BASE_URL": simulator(stack, rate, tokens)}
        else:
            env["LLM_MODEL"] = f"scripted:rate={rate}&tokens={tokens}&stamp=1"
        house = stack.enter_context(bench(env))
        sql = {**house.env, "RAGQUEUE_QUEUE": "sql", "LLM_MODEL": "extractive"}
        mine, house.env = house.env, sql
        house.run("ingest", *map(str, PAGES))
        house.env = mine
        api, worker = house.serve(), house.work(streams + 50)
        before = cpu_seconds(api.pid), cpu_seconds(worker)
        load = round(os.getloadavg()[0], 2)
        seen = asyncio.run(watch(house, streams, tokens))
        used = [
            now - then
            for now, then in zip((cpu_seconds(api.pid), cpu_seconds(worker)), before, strict=True)
        ]
    return {
        "log": log,
        "generator": generator,
        "streams": streams,
        "rate": rate,
        "tokens": seen.tokens,
        "lost": seen.lost,
        "token_p50_ms": round(quantile(seen.delays, 0.5), 2),
        "token_p99_ms": round(quantile(seen.delays, 0.99), 2),
        "post_p99_ms": round(quantile(seen.posts, 0.99), 2),
        "posts": len(seen.posts),
        "worker_us_per_token": round(used[1] / max(1, seen.tokens) * 1e6, 1),
        "api_us_per_token": round(used[0] / max(1, seen.tokens) * 1e6, 1),
        "load_at_start": load,
    }


def simulator(stack: ExitStack, rate: int, tokens: int) -> str:
    """Start the OpenAI-compatible server and return its URL."""
    words = [
        sys.executable,
        "-m",
        "ragqueue.testing.openai_server",
        f"rate={rate}&tokens={tokens}&stamp=1",
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=clean_environment())
    stack.callback(process.wait)
    stack.callback(process.terminate)
    assert process.stdout is not None
    return process.stdout.readline().split()[-1].strip()


async def watch(house: Bench, streams: int, tokens: int) -> Seen:
    seen = Seen()
    counted_from = time.time() + SPREAD + 1.0
    readers = [
        asyncio.create_task(read_one(house, n * SPREAD / streams, tokens, counted_from, seen, n))
        for n in range(streams)
    ]
    await asyncio.sleep(SPREAD + 1.0)
    probes = asyncio.create_task(probe(house, seen))
    await asyncio.gather(*readers)
    probes.cancel()
    await asyncio.gather(probes, return_exceptions=True)
    return seen


async def read_one(
    house: Bench, wait: float, tokens: int, counted_from: float, seen: Seen, n: int
) -> None:
    await asyncio.sleep(wait)
    body = {"question": f"{QUESTION} ({n})"}
    status, reader, writer = await request(house.port, "POST", "/chat", body, "text/event-stream")
    got, ended = 0, False
    if status == 200:
        async for now, event in events(reader):
            ended = event["type"] == "response.completed"
            stamps = [float(stamp) for stamp in _STAMP.findall(str(event.get("delta", "")))]
            got += len(stamps)
            seen.delays += [(now - stamp) * 1000 for stamp in stamps if stamp >= counted_from]
            if ended:
                break
    writer.close()
    seen.tokens += got
    seen.lost += tokens - got if ended else tokens


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
        await asyncio.sleep(max(0.0, 1 / PROBES_S - (time.perf_counter() - began)))


if __name__ == "__main__":
    main(sys.argv[1:])

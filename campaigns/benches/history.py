"""`bench history`: what a million ended jobs cost a deployment, beside an empty one."""

import argparse
import asyncio
import json
import statistics
import sys
import time
from pathlib import Path

from campaigns.house import QUESTION, Bench, bench, cpu_seconds, machine, quantile, request
from ragqueue.embedded import Ragqueue
from ragqueue.records.sqlite import sqlite_module

JOBS = 1_000_000
IDLE_S = 30.0  # seconds over which the CPU of an idle deployment is counted
POSTS = 300
POSTS_S = 20.0  # a second
LOOKS = 9  # of each kind at /metrics, and at what the reconciler looks at
AT_ONCE = 100_000  # rows in one transaction
DAY = 86_400.0

# They ended over the last 20 days, their logs were dropped; each has an answer.
_FILL = """
with recursive numbers(n) as (
    select :first union all select n + 1 from numbers where n < :last)
insert into jobs (
    tenant, id, kind, lane, state, payload, attempt, tries, deaths, place, run_at, deadline_at,
    rung_at, claimed_stamp, cancel_requested, created_at, started_at, ended_at, log_dropped)
select
    'default', printf('past-%d', n), 'chat', 'chat', 'succeeded',
    '{"question": "How long does a lease last?"}', 1, 0, 0, :now - n, :now - n, :now - n + 600,
    :now - n, :now - n, 0, :now - n, :now - n, :now - n, 1
from (select 3600.0 + n * :pace as n from numbers)"""
_ANSWERS = """
insert into answers (tenant, job_id, attempt, body, created_at)
select tenant, id, 1, '{"text": "Ten seconds. [1]", "citations": [], "log_end": 1}', ended_at
from jobs where id like 'past-%'"""


def main(argv: list[str]) -> None:
    """Measure what the command line says and print the figures."""
    parser = argparse.ArgumentParser(prog="bench history")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--jobs", type=int, default=JOBS)
    options = parser.parse_args(argv)
    empty = measure(0)
    print(empty, file=sys.stderr)
    full = measure(options.jobs)
    print(full, file=sys.stderr)
    print(json.dumps({"empty": empty, "full": full, **machine()}))


def measure(past: int) -> dict[str, float]:
    """Measure a deployment with so many ended jobs."""
    env = {"RAGQUEUE_QUEUE": "sql", "RAGQUEUE_EMBEDDER": "none", "LLM_MODEL": "extractive"}
    with bench(env) as house:
        house.run("status", "--json")  # makes the database
        if past:
            fill(Path(house.env["RAGQUEUE_DATA"]) / "records.sqlite3", past)
        reconcile_ms = asyncio.run(reconcile(house))
        api = house.serve()
        worker = house.work(10)
        before = cpu_seconds(api.pid) + cpu_seconds(worker)
        time.sleep(IDLE_S)
        idle = cpu_seconds(api.pid) + cpu_seconds(worker) - before
        posts = asyncio.run(post(house))
        metrics = asyncio.run(look_at_metrics(house))
    return {
        "jobs": past,
        "idle_cpu_s_per_min": round(idle * 60 / IDLE_S, 3),
        "post_p50_ms": round(quantile(posts, 0.5), 2),
        "post_p99_ms": round(quantile(posts, 0.99), 2),
        "metrics_ms": round(statistics.median(metrics), 2),
        "reconcile_ms": round(reconcile_ms, 2),
    }


def fill(path: Path, count: int) -> None:
    """Write so many ended jobs with their answers, as 20 days of work leave them."""
    connection = sqlite_module.connect(path)
    pace = 20 * DAY / count
    for first in range(0, count, AT_ONCE):
        last = min(first + AT_ONCE, count) - 1
        values = {"first": first, "last": last, "pace": pace, "now": time.time()}
        with connection:
            connection.execute(_FILL, values)
    with connection:
        connection.execute(_ANSWERS)
    connection.close()


async def reconcile(house: Bench) -> float:
    """Return how long it takes (ms) to look once at everything, the median of several."""
    names = {"data": "RAGQUEUE_DATA", "vector_db_path": "VECTOR_DB_PATH"}
    settings = {field: house.env[name] for field, name in names.items()}
    settings |= {"queue": "sql", "events": "sql", "embedder": "none", "llm_model": "extractive"}
    times = []
    async with Ragqueue(settings=settings) as ragqueue:
        for _ in range(LOOKS):
            began = time.perf_counter()
            for look in ragqueue.runtime.reconciler.looks():
                await look.step()
            times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


async def post(house: Bench) -> list[float]:
    """Ask questions at a steady pace and return how long (ms) each took to be accepted."""
    times = []
    for _ in range(POSTS):
        began = time.perf_counter()
        _, reader, writer = await request(house.port, "POST", "/chat", {"question": QUESTION})
        await reader.read()
        times.append((time.perf_counter() - began) * 1000)
        writer.close()
        await asyncio.sleep(max(0.0, 1 / POSTS_S - (time.perf_counter() - began)))
    return times


async def look_at_metrics(house: Bench) -> list[float]:
    times = []
    for _ in range(LOOKS):
        began = time.perf_counter()
        _, reader, writer = await request(house.port, "GET", "/metrics")
        await reader.read()
        times.append((time.perf_counter() - began) * 1000)
        writer.close()
    return times


if __name__ == "__main__":
    main(sys.argv[1:])

"""`bench queue`: jobs of 0.5 s on one worker process, both engines, beside RQ's own worker."""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from campaigns.house import QUESTION, SAMPLES, Bench, bench, clean_environment, machine, quantile
from campaigns.services import RedisServer
from ragqueue.embedded import Ragqueue

JOBS = 3000
SLOTS = 400
MODEL = "scripted:rate=2&tokens=2&cite=0"  # the second token is due 0.5 s after the first
RQ_JOBS = 20
DONE_WITHIN = 300  # seconds
SINGLE_JOBS = 60  # that are submitted one after another, to an idle worker

_DONE = """
select created_at, started_at, ended_at from jobs where kind = 'chat' and state = 'succeeded'"""


def main(argv: list[str]) -> None:
    """Measure what the command line says and print the figures."""
    parser = argparse.ArgumentParser(prog="bench queue")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--jobs", type=int, default=JOBS)
    options = parser.parse_args(argv)
    base = rq_default()
    print(f"RQ's default worker: {base:.2f} jobs/s", file=sys.stderr)
    engines = {}
    for engine in ("sql", "rq"):
        rate, start_ms = measure(engine, options.jobs)
        engines[engine] = {
            "jobs_s": round(rate, 1),
            "ratio": round(rate / base, 1),
            "idle_start_p50_ms": round(start_ms, 2),
        }
        print(engine, engines[engine], file=sys.stderr)
    report = {
        "rq_default_jobs_s": round(base, 3),
        "engines": engines,
        "jobs": options.jobs,
        "slots": SLOTS,
    }
    print(json.dumps(report | machine()))


def rq_default() -> float:
    """Return how many jobs of 0.5 s a second RQ's own worker does."""
    from redis import Redis
    from rq import Queue

    with RedisServer() as server:
        queue = Queue("plain", connection=Redis.from_url(server.url))
        for _ in range(RQ_JOBS):
            queue.enqueue("time.sleep", 0.5)
        worker = _start_rq_worker(server.url)
        try:
            _wait_for_rq(queue, 1)
            began = time.monotonic()
            _wait_for_rq(queue, RQ_JOBS)
            return (RQ_JOBS - 1) / (time.monotonic() - began)
        finally:
            worker.terminate()
            worker.wait()


def _start_rq_worker(url: str) -> subprocess.Popen[bytes]:
    rq = Path(sys.executable).with_name("rq")
    return subprocess.Popen(
        [str(rq), "worker", "-u", url, "plain"],
        env=clean_environment(),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def _wait_for_rq(queue: Any, count: int) -> None:
    while queue.finished_job_registry.count < count:
        time.sleep(0.01)


def measure(engine: str, jobs: int) -> tuple[float, float]:
    """Return (jobs/s with all of them waiting, median ms from submit to start when idle)."""
    with ExitStack() as stack:
        env = {"LLM_MODEL": MODEL, "RAGQUEUE_EMBEDDER": "none", "RAGQUEUE_QUEUE": "sql"}
        if engine == "rq":
            server = stack.enter_context(RedisServer())
            env["RAGQUEUE_QUEUE"] = f"rq+{server.url}"
        house = stack.enter_context(bench(env))
        ingest(house)
        asyncio.run(fill(house, jobs))
        house.work(SLOTS)
        rows = wait_for(house, jobs)
        first = min(started for _, started, _ in rows)
        last = max(ended for _, _, ended in rows)
        return jobs / (last - first), asyncio.run(idle(house))


def ingest(house: Bench) -> None:
    """Bring one document in, so that there is something to answer from.

    The engine plays no part in it.
    """
    env = house.env
    house.env = {**env, "RAGQUEUE_QUEUE": "sql"}
    house.run("ingest", str(SAMPLES / "query-params.md"))
    house.env = env


def settings_of(house: Bench) -> dict[str, str]:
    """Return the settings of a process that only submits, without a limit to what waits."""
    return {
        "data": house.env["RAGQUEUE_DATA"],
        "vector_db_path": house.env["VECTOR_DB_PATH"],
        "queue": house.env["RAGQUEUE_QUEUE"],
        "llm_model": MODEL,
        "embedder": "none",
        "lane_bound": str(10**6),
        "tenant_bound": str(10**6),
    }


class Submitting(Ragqueue):
    """Submits without working."""

    async def workers(self) -> int:
        return 1


async def fill(house: Bench, jobs: int) -> None:
    """Submit so many jobs at once, and ring for all of them."""
    async with Submitting(settings=settings_of(house)) as ragqueue:
        submitter = ragqueue.runtime.submitter
        payload = {"question": QUESTION, "limit": 1}
        submissions = [submitter.submit("default", "chat", payload) for _ in range(jobs)]
        await asyncio.gather(*submissions)
        await asyncio.sleep(0.5)
        await ragqueue.runtime.ringer.flush()


async def idle(house: Bench) -> float:
    """Return the median ms from submit to start of jobs that find the worker idle."""
    job_ids = []
    async with Submitting(settings=settings_of(house)) as ragqueue:
        for _ in range(SINGLE_JOBS):
            await asyncio.sleep(0.12)
            job = await ragqueue.runtime.submitter.submit("default", "chat", {"question": QUESTION})
            job_ids.append(job.id)
        await asyncio.sleep(1)
    waits = {
        job_id: (started - created) * 1000
        for job_id, created, started in read(house, "select id, created_at, started_at from jobs")
    }
    return quantile([waits[job_id] for job_id in job_ids], 0.5)


def wait_for(house: Bench, jobs: int) -> list[tuple[Any, ...]]:
    """Return the times of so many jobs once all have succeeded."""
    end = time.monotonic() + DONE_WITHIN
    rows: list[tuple[Any, ...]] = []
    while time.monotonic() < end:
        rows = read(house, _DONE)
        if len(rows) >= jobs:
            return rows
        time.sleep(0.5)
    raise SystemExit(f"{len(rows)} of {jobs} jobs done after {DONE_WITHIN} s")


def read(house: Bench, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query to the records."""
    engine = create_engine(f"sqlite:///{house.env['RAGQUEUE_DATA']}/records.sqlite3")
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]
    finally:
        engine.dispose()


if __name__ == "__main__":
    main(sys.argv[1:])

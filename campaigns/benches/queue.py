"""`bench queue`: jobs of 0.5 s on one worker process, each set-up, beside RQ's own worker."""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from campaigns import database
from campaigns.house import (
    QUESTION,
    SAMPLES,
    Bench,
    bench,
    clean_environment,
    cpu_seconds,
    machine,
    quantile,
)
from campaigns.services import PostgresServer, RedisServer
from ragqueue.embedded import Ragqueue

JOBS = 3000
SLOTS = 400
MODEL = "scripted:rate=2&tokens=2&cite=0"  # the second token is due 0.5 s after the first
RQ_JOBS = 20
DONE_WITHIN = 300  # seconds
SETUPS = ("sql", "rq", "postgres", "rq-postgres")
FEW_SLOTS = 50  # of each of two workers, which the rate is then bounded by
FEW_JOBS = 600
SINGLE_JOBS = 60  # that are submitted one after another, to an idle worker

_DONE = """
select created_at, started_at, ended_at from jobs where kind = 'chat' and state = 'succeeded'"""


def main(argv: list[str]) -> None:
    """Measure what the command line says and print the figures."""
    parser = argparse.ArgumentParser(prog="bench queue")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--setup", action="append", choices=SETUPS, help="By default each")
    options = parser.parse_args(argv)
    base = rq_default()
    print(f"RQ's default worker: {base:.2f} jobs/s", file=sys.stderr)
    engines = {}
    for setup in options.setup or SETUPS:
        figures = measure(setup, options.jobs)
        figures["ratio"] = round(figures["jobs_s"] / base, 1)
        figures["two_workers"] = round(of_two(setup), 2)
        engines[setup] = figures
        print(setup, figures, file=sys.stderr)
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


def measure(setup: str, jobs: int) -> dict[str, float]:
    """Return the figures of one worker process, with all jobs waiting, and with it idle."""
    with house_of(setup) as (house, server):
        asyncio.run(fill(house, jobs))
        pid = house.work(SLOTS)
        rate = rate_of(wait_for(house, jobs))
        own = cpu_seconds(pid)
        report = {"jobs_s": round(rate, 1), "cpu_ms_per_job": round(own / jobs * 1000, 2)}
        if server is not None:
            report["server_cpu_ms_per_job"] = round(server.cpu_seconds() / jobs * 1000, 2)
        report["idle_start_p50_ms"] = round(asyncio.run(idle(house)), 2)
        return report


def of_two(setup: str) -> float:
    """Return how many times the jobs/s of one worker process two of them do."""
    rates = []
    for workers in (1, 2):
        with house_of(setup) as (house, _):
            for _ in range(workers):
                house.work(FEW_SLOTS)
            asyncio.run(fill(house, FEW_JOBS))
            rates.append(rate_of(wait_for(house, FEW_JOBS)))
    return rates[1] / rates[0]


def rate_of(rows: Sequence[tuple[Any, ...]]) -> float:
    """Return jobs a second, from the first start to the last end."""
    first = min(started for _, started, _ in rows)
    last = max(ended for _, _, ended in rows)
    return float(len(rows) / (last - first))


@contextmanager
def house_of(setup: str) -> Iterator[tuple[Bench, PostgresServer | None]]:
    """Give the house of a set-up that holds a document, and its PostgreSQL if it has one."""
    with ExitStack() as stack:
        env = {"LLM_MODEL": MODEL, "RAGQUEUE_EMBEDDER": "none", "RAGQUEUE_QUEUE": "sql"}
        postgres = None
        if setup.endswith("postgres"):
            postgres = stack.enter_context(PostgresServer(durable=True))
            env["RAGQUEUE_DATABASE_URL"] = postgres.url
        if setup.startswith("rq"):
            env["RAGQUEUE_QUEUE"] = f"rq+{stack.enter_context(RedisServer()).url}"
        house = stack.enter_context(bench(env))
        asyncio.run(ingest(house))
        yield house, postgres


async def ingest(house: Bench) -> None:
    """Bring one document in, so that there is something to answer from."""
    async with Submitting(settings=settings_of(house)) as ragqueue, ragqueue.runtime.working():
        await ragqueue.ingest(SAMPLES / "query-params.md")


def settings_of(house: Bench) -> dict[str, str]:
    """Return the settings of a process that only submits, without a limit to what waits."""
    settings = {
        "data": house.env["RAGQUEUE_DATA"],
        "vector_db_path": house.env["VECTOR_DB_PATH"],
        "queue": house.env["RAGQUEUE_QUEUE"],
        "llm_model": MODEL,
        "embedder": "none",
        "lane_bound": str(10**6),
        "tenant_bound": str(10**6),
        "drain": "1",
    }
    if "RAGQUEUE_DATABASE_URL" in house.env:
        settings["database_url"] = house.env["RAGQUEUE_DATABASE_URL"]
    return settings


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
    return [tuple(row) for row in database.rows(house.database, query)]


if __name__ == "__main__":
    main(sys.argv[1:])

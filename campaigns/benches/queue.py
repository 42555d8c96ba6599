"""`bench queue`: jobs of 0.5 s on one worker process, both engines, beside RQ's default worker."""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import create_engine, text

from campaigns.house import QUESTION, SAMPLES, Bench, bench, clean_environment, machine, quantile
from campaigns.services import RedisServer
from ragqueue.embedded import Ragqueue

JOBS = 3000
SLOTS = 400
MODEL = "scripted:rate=2&tokens=2&cite=0"  # the second token is due 0.5 s after the first
RQ_JOBS = 20


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench queue")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--jobs", type=int, default=JOBS)
    options = parser.parse_args(argv)
    base = rq_default()
    print(f"RQ's default worker: {base:.2f} jobs/s", file=sys.stderr)
    engines = {}
    for engine in ("sql", "rq"):
        rate, start = measure(engine, options.jobs)
        engines[engine] = {
            "jobs_s": round(rate, 1),
            "ratio": round(rate / base, 1),
            "idle_start_p50_ms": round(start, 2),
        }
        print(engine, engines[engine], file=sys.stderr)
    print(
        json.dumps(
            {
                "rq_default_jobs_s": round(base, 3),
                "engines": engines,
                "jobs": options.jobs,
                "slots": SLOTS,
                **machine(),
            }
        )
    )


def rq_default() -> float:
    """Return how many jobs of 0.5 s a second RQ's own worker does."""
    from redis import Redis
    from rq import Queue

    with RedisServer() as server:
        queue = Queue("plain", connection=Redis.from_url(server.url))
        for _ in range(RQ_JOBS):
            queue.enqueue("time.sleep", 0.5)
        rq = str(Path(sys.executable).with_name("rq"))
        began = time.monotonic()
        worker = subprocess.Popen(
            [rq, "worker", "-u", server.url, "plain"],
            env=clean_environment(),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            while queue.finished_job_registry.count < 1:
                time.sleep(0.01)
            began = time.monotonic()
            while queue.finished_job_registry.count < RQ_JOBS:
                time.sleep(0.01)
            return (RQ_JOBS - 1) / (time.monotonic() - began)
        finally:
            worker.terminate()
            worker.wait()


def measure(engine: str, jobs: int) -> tuple[float, float]:
    """Return (jobs/s with all of them waiting, median ms from submit to start when idle)."""
    with ExitStack() as stack:
        env = {"LLM_MODEL": MODEL, "RAGQUEUE_EMBEDDER": "none", "RAGQUEUE_QUEUE": "sql"}
        if engine == "rq":
            env["RAGQUEUE_QUEUE"] = f"rq+{stack.enter_context(RedisServer()).url}"
        house = stack.enter_context(bench(env))
        ingest(house)
        asyncio.run(fill(house, jobs))
        house.work(SLOTS)
        rows = wait_for(house, jobs)
        rate = jobs / (max(ended for _, _, ended in rows) - min(started for _, started, _ in rows))
        return rate, asyncio.run(idle(house))


def ingest(house: Bench) -> None:
    """Bring one document in, so that there is something to answer from; the engine plays no part in it."""
    env, house.env = house.env, {**house.env, "RAGQUEUE_QUEUE": "sql"}
    house.run("ingest", str(SAMPLES / "query-params.md"))
    house.env = env


def settings_of(house: Bench) -> dict[str, str]:
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
    async with Submitting(settings=settings_of(house)) as ragqueue:
        submitter = ragqueue.runtime.submitter
        await asyncio.gather(
            *(
                submitter.submit("default", "chat", {"question": QUESTION, "limit": 1})
                for _ in range(jobs)
            )
        )
        await asyncio.sleep(0.5)
        await ragqueue.runtime.ringer.flush()


async def idle(house: Bench, count: int = 60) -> float:
    async with Submitting(settings=settings_of(house)) as ragqueue:
        made = []
        for _ in range(count):
            await asyncio.sleep(0.12)
            made.append(
                (
                    await ragqueue.runtime.submitter.submit(
                        "default", "chat", {"question": QUESTION}
                    )
                ).id
            )
        await asyncio.sleep(1)
    rows = {
        job_id: started - created
        for job_id, created, started in read(house, "select id, created_at, started_at from jobs")
    }
    return quantile([rows[job_id] * 1000 for job_id in made], 0.5)


def wait_for(house: Bench, jobs: int) -> list[tuple[float, float, float]]:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        rows = read(
            house,
            "select created_at, started_at, ended_at from jobs where kind = 'chat' and state = 'succeeded'",
        )
        if len(rows) >= jobs:
            return rows
        time.sleep(0.5)
    raise SystemExit(f"{len(rows)} of {jobs} jobs done after 300 s")


def read(house: Bench, query: str) -> list[tuple[float, float, float]]:
    engine = create_engine(f"sqlite:///{house.env['RAGQUEUE_DATA']}/records.sqlite3")
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]
    finally:
        engine.dispose()


if __name__ == "__main__":
    main(sys.argv[1:])

"""The process under the power cut: takes real jobs through the real records.

Every promise is noted in the log of its writes.
"""

import argparse
import asyncio
import os
import random
from pathlib import Path

from sqlalchemy import URL, event

from campaigns.faults import mutants
from campaigns.faults.powercut_disk import promise
from ragqueue.events.sql import SqlEventLog
from ragqueue.records import jobs, retention
from ragqueue.records.schema import migrate
from ragqueue.records.store import Records
from ragqueue.types import Append, Event, Job, Outcome, seq_of
from ragqueue.working.beat import Beat
from ragqueue.working.loops import Watch

TENANT = "acme"
# What a job was promised, in the order of its life; ERASING promises nothing.
SUBMITTED = 1
CLAIMED = 2
FINISHED = 3
ERASING = 4
ERASED = 5
MUTATIONS = ("full_commit",)
AT_ONCE = 6  # jobs of a process that write at the same time, so that commits are grouped
LEASE = 60.0  # seconds
BEAT = 0.05  # seconds
# Pages of a write-ahead log that is checkpointed; a short one is begun anew often.
CHECKPOINTS = (30, 100, 1000)


def answer_of(job_id: str) -> dict[str, str]:
    """Return the answer that this job must have; some are longer than a page."""
    times = 1 + hash_of(job_id) % 40 * 20
    return {"text": job_id * times}


def hash_of(job_id: str) -> int:
    """Return a number that is the same in every process."""
    return sum(job_id.encode()) * 2654435761 % 2**32


class Writer:
    """Takes jobs from submission to their erasure."""

    def __init__(self, folder: Path, log_fd: int, name: str, rng: random.Random) -> None:
        self._records = Records(URL.create("sqlite", database=f"{folder}/records.sqlite3"))
        checkpoint_after = f"PRAGMA wal_autocheckpoint={rng.choice(CHECKPOINTS)}"
        event.listen(
            self._records.engine,
            "connect",
            lambda connection, _: connection.execute(checkpoint_after),
        )
        migrate(self._records.engine)
        self._events = SqlEventLog(self._records)
        self._held: set[tuple[str, int]] = set()
        self._beat = Beat(
            self._records.session(),
            name,
            self._held,
            lanes="chat",
            lease=LEASE,
            every=BEAT,
            watch=Watch("beat", lambda _: None),
            on_lost=lambda *_: None,
            on_cancel=lambda _: None,
        )
        self._log_fd = log_fd
        self._name = name
        self._rng = rng

    async def run(self, count: int) -> None:
        """Work `count` jobs, several at a time."""
        self._beat.start()
        waiting = [f"{self._name}-{n}" for n in range(count)]
        slots = [self._work_all(waiting) for _ in range(AT_ONCE)]
        await asyncio.gather(*slots)
        self._beat.stop()

    def close(self) -> None:
        """End in good order: the last one to close checkpoints and removes the write-ahead log."""
        self._records.close()

    async def _work_all(self, waiting: list[str]) -> None:
        while waiting:
            await self._work(waiting.pop())

    async def _work(self, job_id: str) -> None:
        payload = {"question": "what is kept when the power goes?"}
        await self._records.write(jobs.insert_job, TENANT, job_id, "chat", payload, LEASE)
        self._promise(job_id, SUBMITTED)
        job = await self._records.write(jobs.claim, job_id, self._name, 0.0, LEASE)
        assert job is not None
        self._promise(job_id, CLAIMED)
        self._held.add((job_id, job.attempt))
        await self._stream(job)
        self._held.discard((job_id, job.attempt))
        outcome = Outcome(state="succeeded", result=answer_of(job_id))
        await self._records.write(jobs.finish, job, outcome)
        self._promise(job_id, FINISHED)
        if self._rng.random() < 0.3:
            self._promise(job_id, ERASING)
            await self._records.write(retention.erase, TENANT, [job_id])
            self._promise(job_id, ERASED)

    async def _stream(self, job: Job) -> None:
        """Append events, which a power cut may take, and read now and then.

        A reader keeps a checkpoint from ending.
        """
        after = -1
        n = 0
        for _ in range(self._rng.randint(1, 8)):
            size = self._rng.randint(1, 4)
            batch = [_event(job, n + i) for i in range(size)]
            append = Append(job_id=job.id, after=after, events=batch)
            (after,) = await self._events.append([append])
            assert after == batch[-1].seq
            n += size
            if self._rng.random() < 0.3:
                await self._events.read({job.id: 0})

    def _promise(self, job_id: str, stage: int) -> None:
        os.write(self._log_fd, promise(job_id, stage))


def _event(job: Job, n: int) -> Event:
    return Event(seq=seq_of(job.attempt, n), type="delta", data={"text": "word " * 20})


def main() -> None:
    """Run one writer to its end, which need not be in good order."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--mutation", choices=MUTATIONS)
    parser.add_argument("--close", action="store_true")
    options = parser.parse_args()
    if options.mutation:
        mutants.apply(options.mutation)
    log_fd = os.open(os.environ["POWERCUT_LOG"], os.O_WRONLY | os.O_APPEND)
    writer = Writer(options.folder, log_fd, options.name, random.Random(options.seed))
    asyncio.run(writer.run(options.jobs))
    if options.close:
        writer.close()
    os._exit(0)


if __name__ == "__main__":
    main()

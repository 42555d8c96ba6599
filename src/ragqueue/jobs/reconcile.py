"""Heal what was lost: dead leases, lost rings, deadlines, cancels of dead runs, and records past their retention.

Runs in every API and worker process; every step is conditional, so that two at once do no harm.
"""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from ragqueue.errors import RagqueueError
from ragqueue.events.base import EventLog
from ragqueue.events.pen import bury
from ragqueue.jobs.ring import Ringer
from ragqueue.queues.base import JobQueue
from ragqueue.records import chunks, documents, jobs, workers
from ragqueue.records.store import Records
from ragqueue.types import LANES, Job, Outcome, Ring

LEASES_EVERY = 0.5  # seconds
REST_AT = 6  # rounds: everything but leases
RING_AGE = 2.0  # a younger ring is on its way
OVERTAKINGS = 20  # claims of jobs rung later that prove a ring lost; one proves nothing (1,400 surplus rings of 1,500)
RERING_LIMIT = 2_000
TIDY_EVERY = 3600.0  # seconds between looks through all texts and removals
WORKERS_KEPT = 3600.0  # seconds that a process which does not beat stays in the table

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Retention:
    """How long ended things are kept, in seconds."""

    events: float = 600.0
    jobs: float = 30 * 86_400.0
    idempotency: float = 86_400.0


class Reconciler:
    """Looks for what nobody works on and puts it right."""

    def __init__(self, records: Records, queue: JobQueue, log: EventLog, ringer: Ringer, *, retention: Retention, lease: float) -> None:
        self._records, self._queue, self._log, self._ringer = records, queue, log, ringer
        self._retention, self._lease = retention, lease
        self._tidied = -TIDY_EVERY

    async def run(self) -> None:
        """Heal, for ever."""
        for rounds in itertools.count():
            rest = () if rounds % REST_AT else (self.deadlines, self.rings, self.retention)
            for step in (self.leases, *rest):
                try:
                    await step()
                except RagqueueError as error:
                    logger.warning("reconcile.failed: %s", error)
            await asyncio.sleep(LEASES_EVERY * random.uniform(0.8, 1.2))

    async def leases(self) -> None:
        """Release dead leases and ring what has never been rung."""
        if await self._records.read(jobs.any_dead):
            released = await self._records.write(jobs.release_dead)
            logger.warning("reconcile.released jobs=%d", released)
        if await self._records.read(jobs.unrung):
            self._ringer.ring(await self._records.note(jobs.ring_unrung))

    async def deadlines(self) -> None:
        """End jobs that must end and that nobody ends."""
        for job in await self._records.read(jobs.overdue, self._lease):
            await end_unheld(self._records, self._log, job)

    async def rings(self) -> None:
        """Ring again what the engine must have lost."""
        for lane in LANES:
            looked = time.monotonic()
            # An empty queue proves a ring lost, unless it is on its way: thousands of them take seconds.
            empty = not self._ringer.busy and await self._queue.depth(lane) == 0
            if lost := await self._records.note(_ring_lost, lane, empty, looked):
                logger.warning("reconcile.rung_again lane=%s jobs=%d", lane, len(lost))
                self._ringer.ring(lost)

    async def retention(self) -> None:
        """Erase logs, jobs, keys, replaced texts, removals and workers that are past their time."""
        if logs := await self._records.read(jobs.expired, self._retention.events, 500, True):
            await self._log.drop([job_id for _, job_id in logs])
        if old := await self._records.read(jobs.expired, self._retention.jobs, 500):
            await erase_jobs(self._records, self._log, old)
        await self._records.note(jobs.forget_keys, self._retention.idempotency)
        await self._records.note(workers.forget, WORKERS_KEPT)
        if time.monotonic() >= self._tidied + TIDY_EVERY:
            self._tidied = time.monotonic()
            # Kept as long as the answers that quote them.
            if texts := await self._records.read(documents.replaced, self._retention.jobs, 1000):
                await self._records.note(documents.forget_versions, texts)
            await self._records.note(chunks.forget_removals, self._retention.jobs)


def _ring_lost(connection: Connection, lane: str, empty: bool, looked: float) -> list[Ring]:
    age = RING_AGE + time.monotonic() - looked  # this write may have waited behind many others since the queue was looked at
    return jobs.ring_lost(connection, lane, empty=empty, age=age, overtakings=OVERTAKINGS, limit=RERING_LIMIT)


async def erase_jobs(records: Records, log: EventLog, ids: Sequence[tuple[str, str]]) -> None:
    """Erase ended jobs, given as (tenant, job id), with their answers and logs. Raises Unavailable."""
    await log.drop([job_id for _, job_id in ids])
    for tenant in sorted({tenant for tenant, _ in ids}):
        await records.write(jobs.erase, tenant, [job_id for owner, job_id in ids if owner == tenant])


async def end_unheld(records: Records, log: EventLog, job: Job) -> None:
    """End a job over the head of a worker that may be gone: fence its log first, so that nothing follows the end."""
    if job.attempt:
        await bury(log, job.id, job.attempt + 1)
    await records.write(jobs.bury, job, _verdict(job))


def _verdict(job: Job) -> Outcome:
    if job.cancel_requested:
        return Outcome("cancelled")
    if job.deaths:
        said = f"the deadline passed after {job.deaths} deaths of the processes that ran it: `ragqueue jobs retry {job.id}`"
        return Outcome("failed", None, jobs.DEAD_LETTER, said)
    said = "while it waited: is a worker running?" if job.attempt == 0 else f"after {job.attempt} runs"
    return Outcome("failed", None, "deadline_exceeded", f"the deadline passed {said}")


async def cancel(records: Records, log: EventLog, tenant: str, job_id: str) -> Job | None:
    """Ask for the end of a job; one that waits ends at once, one that runs within a second. Returns it as it then is."""
    job = await records.write(jobs.request_cancel, tenant, job_id)
    if job is not None and job.state == "queued":
        await end_unheld(records, log, job)
        job = await records.read(jobs.get, tenant, job_id)
    return job

"""Heal what was lost: dead leases, lost rings, deadlines, cancels of dead runs, and old records."""

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from ragqueue.errors import Conflict, RagqueueError
from ragqueue.events.base import EventLog
from ragqueue.jobs.control import end_unheld, erase_jobs
from ragqueue.jobs.receipts import compact
from ragqueue.jobs.ring import Ringer
from ragqueue.jobs.submit import Submitter
from ragqueue.queues.base import JobQueue
from ragqueue.records import documents, erasures, jobs, readings, retention, uploads, workers
from ragqueue.records.store import Records
from ragqueue.types import LANES

SOON = 0.5  # seconds between two looks
OFTEN = 3.0
RARELY = 3600.0
RING_AGE = 2.0  # seconds; a younger ring is on its way
ERASE_AGAIN = 10.0  # seconds after an erasure that came to nothing
AT_ONCE = 500  # jobs whose log is dropped, or that are erased, in one look
MOST_ABANDONED = 1000  # staged chunks of a document that are removed in one look
UPLOAD_FORGOTTEN = 3600.0  # seconds in which a file's bytes must have come in
WORKER_FORGOTTEN = 3600.0  # seconds after its last beat
logger = logging.getLogger(__name__)


class Look(NamedTuple):
    """What is looked at again and again, and how often (seconds)."""

    step: Callable[[], Awaitable[None]]
    every: float


class Reconciler:
    """Puts right what nobody works on, in every API and worker process.

    Every step is conditional, so that two at once do no harm.
    """

    def __init__(
        self,
        records: Records,
        queue: JobQueue,
        log: EventLog,
        ringer: Ringer,
        submitter: Submitter,
        *,
        keep_events: float,
        keep_jobs: float,
        lease: float,
    ) -> None:
        """`keep_events` and `keep_jobs`: seconds after the end of a job. `lease`: seconds."""
        self._records = records
        self._queue = queue
        self._log = log
        self._ringer = ringer
        self._submitter = submitter
        self._keep_events = keep_events
        self._keep_jobs = keep_jobs
        self._lease = lease

    def looks(self) -> list[Look]:
        """Return what is to be looked at, each by itself, whatever becomes of the others."""
        return [
            Look(partial(_patient, self.leases), SOON),
            Look(partial(_patient, self.deadlines), OFTEN),
            Look(partial(_patient, self.rings), OFTEN),
            Look(partial(_patient, self.tallies), OFTEN),
            Look(partial(_patient, self.retention), OFTEN),
            Look(partial(_patient, self.erasures), OFTEN),
            Look(partial(_patient, self.tidy), RARELY),
        ]

    async def leases(self) -> None:
        """Release dead leases and ring what has never been rung."""
        dead, unrung = await self._records.read(jobs.neglected)
        if dead:
            released = await self._records.write(jobs.release)
            logger.warning("reconcile.released jobs=%d", len(released))
        if dead or unrung:
            self._ringer.ring(await self._records.note(jobs.ring_due))

    async def deadlines(self) -> None:
        """End jobs that must end and that nobody ends."""
        for job in await self._records.read(jobs.overdue, self._lease):
            await end_unheld(self._records, self._log, job)

    async def rings(self) -> None:
        """Ring again what the engine must have lost."""
        for lane in LANES:
            looked = time.monotonic()
            # An empty queue proves a ring lost, unless it is on its way: thousands take seconds.
            empty = not self._ringer.waiting and await self._queue.depth(lane) == 0
            lost = await self._records.note(
                jobs.ring_lost, lane, empty=empty, age=RING_AGE, looked=looked
            )
            if lost:
                logger.warning("reconcile.rung_again lane=%s jobs=%d", lane, len(lost))
                self._ringer.ring(lost)

    async def tallies(self) -> None:
        """Add up what the writers of a server left apart."""
        if not self._records.database.is_file:
            await self._records.note(self._records.database.upkeep.merge_tallies)

    async def retention(self) -> None:
        """Erase logs and jobs that are past their time."""
        job_ids = await self._records.read(retention.logged, self._keep_events, AT_ONCE)
        if job_ids:
            await self._log.drop(job_ids)
            await self._records.note(retention.note_logs_dropped, job_ids)
        expired = await self._records.read(retention.expired, self._keep_jobs, AT_ONCE)
        if expired:
            await erase_jobs(self._records, self._log, expired)

    async def erasures(self) -> None:
        """Submit the erasure of hidden documents anew whose job came to nothing."""
        for tenant, document_id in await self._records.read(erasures.unerased, ERASE_AGAIN):
            take = partial(erasures.take_erasure, tenant=tenant, document_id=document_id)
            payload = {"document_id": document_id}
            with suppress(Conflict):  # another process was faster
                await self._submitter.submit(tenant, "delete", payload, first=take, admitted=True)
                logger.warning("reconcile.erasure_again document=%s", document_id)

    async def tidy(self) -> None:
        """Forget replaced texts, removals of vectors, dead workers, files that broke off.

        Texts and removals are kept as long as the answers that quote them.
        """
        await self._records.note(documents.forget_replaced, self._keep_jobs)
        for tenant, document_id in await self._records.read(readings.abandoned):
            await self._records.note(readings.remove_stale, tenant, document_id, "", MOST_ABANDONED)
        await self._records.note(uploads.forget_untaken, UPLOAD_FORGOTTEN)
        await self._records.note(workers.forget, WORKER_FORGOTTEN)
        await compact(self._records)  # last: it needs the most room


async def _patient(look: Callable[[], Awaitable[None]]) -> None:
    """Look; a service that is away is no surprise, and the next look comes soon."""
    try:
        await look()
    except RagqueueError as error:
        logger.warning("reconcile.failed: %s", error)

"""Heal what was lost: dead leases, lost rings, deadlines, cancels of dead runs, and records past their retention."""

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from ragqueue.errors import Conflict, RagqueueError
from ragqueue.events.base import EventLog
from ragqueue.jobs.control import end_unheld, erase_jobs
from ragqueue.jobs.receipts import compact
from ragqueue.jobs.ring import Ringer
from ragqueue.jobs.submit import Submitter
from ragqueue.queues.base import JobQueue
from ragqueue.records import documents, jobs, workers
from ragqueue.records.store import Records
from ragqueue.types import LANES

SOON, OFTEN, RARELY = 0.5, 3.0, 3600.0  # seconds between two looks
RING_AGE = 2.0  # a younger ring is on its way
ERASE_AGAIN = 10.0  # seconds after an erasure that came to nothing
Look = Callable[[], Awaitable[None]]
logger = logging.getLogger(__name__)


async def _patient(look: Look) -> None:
    """Look; a service that is away is no surprise, and the next look comes soon."""
    try:
        await look()
    except RagqueueError as error:
        logger.warning("reconcile.failed: %s", error)


class Reconciler:
    """Puts right what nobody works on, in every API and worker process: every step is conditional, so that two at once do no harm."""

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
        """`keep_events` and `keep_jobs`: seconds after the end of a job."""
        self._records, self._queue, self._log, self._ringer, self._submitter = (
            records,
            queue,
            log,
            ringer,
            submitter,
        )
        self._keep_events, self._keep_jobs, self._lease = keep_events, keep_jobs, lease

    def looks(self) -> list[tuple[Look, float]]:
        """Return what is to be looked at, each about every so many seconds, whatever becomes of the others."""
        often = [
            (look, OFTEN) for look in (self.deadlines, self.rings, self.retention, self.erasures)
        ]
        return [
            (partial(_patient, look), seconds)
            for look, seconds in [(self.leases, SOON), *often, (self.tidy, RARELY)]
        ]

    async def leases(self) -> None:
        """Release dead leases and ring what has never been rung."""
        dead, unrung = await self._records.read(jobs.neglected)
        if dead:
            logger.warning(
                "reconcile.released jobs=%d", len(await self._records.write(jobs.release))
            )
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
            # An empty queue proves a ring lost, unless it is on its way: thousands of them take seconds.
            empty = not self._ringer.waiting and await self._queue.depth(lane) == 0
            if lost := await self._records.note(jobs.ring_lost, lane, empty, RING_AGE, looked):
                logger.warning("reconcile.rung_again lane=%s jobs=%d", lane, len(lost))
                self._ringer.ring(lost)

    async def retention(self) -> None:
        """Erase logs and jobs that are past their time."""
        if logs := await self._records.read(jobs.logged, self._keep_events, 500):
            await self._log.drop(logs)
            await self._records.note(jobs.note_logs_dropped, logs)
        if old := await self._records.read(jobs.expired, self._keep_jobs, 500):
            await erase_jobs(self._records, self._log, old)

    async def erasures(self) -> None:
        """Submit the erasure of hidden documents anew whose job was lost, failed or ran out of time."""
        for tenant, document_id in await self._records.read(documents.unerased, ERASE_AGAIN):
            take = partial(documents.take_erasure, tenant=tenant, document_id=document_id)
            with suppress(Conflict):  # another process was faster
                await self._submitter.submit(
                    tenant, "delete", {"document_id": document_id}, first=take, admitted=True
                )
                logger.warning("reconcile.erasure_again document=%s", document_id)

    async def tidy(self) -> None:
        """Complete erasures; erase replaced texts and removals, which are kept as long as the answers that quote them, and workers that died."""
        await self._records.note(documents.forget_replaced, self._keep_jobs)
        await self._records.note(workers.forget, 3600.0)  # seconds without a beat
        await compact(self._records)  # last: it needs the most room

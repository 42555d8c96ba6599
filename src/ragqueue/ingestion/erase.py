"""Erase documents for good, with everything that quotes them.

Whatever races with it, an erasure comes to its end.
"""

import asyncio
import logging
from functools import partial

from sqlalchemy import Connection

from ragqueue.errors import Unavailable
from ragqueue.events.base import EventLog, fence
from ragqueue.indexes.base import Index
from ragqueue.jobs.control import cancel
from ragqueue.jobs.receipts import compact
from ragqueue.jobs.submit import Submitter
from ragqueue.records import chunks, documents, erasures, readings
from ragqueue.records.store import Records
from ragqueue.types import Job, Outcome

LOOKS = 200  # at whether those that read the document have ended
LOOK_EVERY = 0.1  # seconds
# Bytes of a database that is written anew in less than a second; larger ones within the hour.
COMPACTED_AT_ONCE = 100_000_000
logger = logging.getLogger(__name__)


class Eraser:
    """Hides documents at once, and does the jobs that erase them."""

    def __init__(
        self, records: Records, submitter: Submitter, log: EventLog, index: Index | None
    ) -> None:
        self._records = records
        self._submitter = submitter
        self._log = log
        self._index = index

    async def delete(self, tenant: str, document_id: str) -> Job:
        """Hide a document in every process and submit its erasure. Raises NotFound, StoreFull."""
        hide = partial(erasures.hide, tenant=tenant, document_id=document_id)
        payload = {"document_id": document_id}
        return await self._submitter.submit(tenant, "delete", payload, first=hide)

    async def run(self, job: Job) -> Outcome:
        """Do a delete job: every step can be repeated, and the receipt is completed last.

        Who may still write from the document is ended first, then what was written goes, and only
        then the receipt says so. Raises Unavailable when something keeps a step from being done:
        the reconciler submits the erasure again.
        """
        tenant = job.tenant
        document_id = str(job.payload["document_id"])
        await self._end_readers(tenant, document_id)
        quoting = await self._records.read(erasures.quoting, tenant, document_id)
        # Not only dropped: a run that was ended from outside would write its log again.
        await self._log.seal([fence(job_id, attempt + 1) for job_id, attempt in quoting])
        numbers, counts = await self._records.write(_erase, tenant, document_id)
        await self._leave_index(tenant, document_id, numbers)
        counts |= {"logs": len(quoting), "chunks": len(numbers)} | await self._log.purge()
        await self._records.write(erasures.note_cleared, tenant, document_id, counts)
        if await self._records.size() <= COMPACTED_AT_ONCE:
            await compact(self._records)
        return Outcome(state="succeeded", result={"document_id": document_id, "counts": counts})

    async def _end_readers(self, tenant: str, document_id: str) -> None:
        """End the jobs that read the document or answer from it. Raises Unavailable.

        Once it is hidden, no other one begins to.
        """
        for _ in range(LOOKS):
            living = await self._records.read(erasures.touching, tenant, document_id)
            if not living:
                return
            for owner, job_id, is_asked in living:
                if not is_asked:
                    await cancel(self._records, self._log, owner, job_id)
            await asyncio.sleep(LOOK_EVERY)
        raise Unavailable(
            f"{len(living)} jobs still use document {document_id}: the erasure is tried again"
        )

    async def _leave_index(self, tenant: str, document_id: str, numbers: list[int]) -> None:
        space = await self._records.read(documents.space_of, tenant, document_id)
        if space is None or self._index is None:
            return
        await self._index.delete(space, numbers)
        await self._index.compact(space)


def _erase(
    connection: Connection, tenant: str, document_id: str
) -> tuple[list[int], dict[str, int]]:
    """Return the numbers of the chunks that went, and how much else did."""
    numbers = chunks.remove(connection, tenant, document_id)
    readings.forget(connection, tenant, document_id)
    return numbers, erasures.erase(connection, tenant, document_id)

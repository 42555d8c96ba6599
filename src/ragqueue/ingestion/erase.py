"""Delete documents so that it can be proved: hidden at once, then erased with everything that quotes them."""

import asyncio
import time

from sqlalchemy import Connection

from ragqueue.errors import NotFound, Unavailable
from ragqueue.events.base import EventLog
from ragqueue.indexes.base import Index, Space
from ragqueue.ingestion.ingest import Attempted
from ragqueue.jobs.reconcile import cancel
from ragqueue.jobs.submit import Submitter
from ragqueue.records import chunks, documents, jobs
from ragqueue.records.store import Records
from ragqueue.types import Job, Outcome

_END_WAIT = 20.0  # seconds that a cancelled question may take to end


class Eraser:
    """Hides documents, erases them, and writes receipts."""

    def __init__(self, records: Records, submitter: Submitter, log: EventLog, index: Index | None) -> None:
        self._records, self._submitter, self._log, self._index = records, submitter, log, index

    async def delete(self, tenant: str, document_id: str) -> Job:
        """Hide a document in every process and submit its erasure. Raises NotFound, StoreFull."""

        def first(connection: Connection) -> None:
            if not documents.hide(connection, tenant, document_id):
                raise NotFound(f"there is no document {document_id!r}")

        job, _ = await self._submitter.submit(tenant, "delete", {"document_id": document_id}, first=first)
        return job

    async def run(self, run: Attempted) -> Outcome:
        """Do a delete job: every step can be repeated, and the receipt is completed last."""
        tenant, document_id = run.job.tenant, str(run.job.payload["document_id"])
        space = await self._records.read(documents.space_of, tenant, document_id)
        job_ids = await self._records.read(documents.quoting, tenant, document_id)
        for job_id in job_ids:  # a question that is being answered from the document is asked to end
            await self._end(tenant, job_id)
        await self._log.drop(job_ids)
        answers = await self._records.write(documents.erase_answers, tenant, job_ids)
        counts = await self._records.write(
            lambda connection: {"chunks": chunks.remove(connection, tenant, document_id)} | documents.erase(connection, tenant, document_id)
        )
        compact = getattr(self._index, "compact", None)  # an index that keeps files of its own
        if compact is not None and space is not None:
            await compact(Space(tenant, *space), erase=True)
        await self._records.checkpoint()
        counts |= {"answers": answers, "logs": len(job_ids)}
        await self._records.write(documents.note_erased, tenant, document_id, counts)
        return Outcome("succeeded", result={"document_id": document_id, "counts": counts})

    async def _end(self, tenant: str, job_id: str) -> None:
        """Cancel a job and wait until it has ended. Raises Unavailable."""
        if (job := await self._records.read(jobs.get, tenant, job_id)) is None or job.ended:
            return
        await cancel(self._records, self._log, tenant, job_id)
        end = time.monotonic() + _END_WAIT
        while (job := await self._records.read(jobs.get, tenant, job_id)) is not None and not job.ended:
            if time.monotonic() > end:
                raise Unavailable(f"job {job_id} still answers from the document: the erasure is tried again")
            await asyncio.sleep(0.1)

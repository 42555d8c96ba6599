"""What a caller may ask, and every rule of it: the doors (HTTP, Python, command line) translate.

A desk serves one tenant. Values go in, records come out; what is another tenant's is not there.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from ragqueue.errors import Conflict, InvalidRequest, NotFound
from ragqueue.events.base import EventLog
from ragqueue.ingestion.accept import Acceptor
from ragqueue.ingestion.erase import Eraser
from ragqueue.jobs.control import cancel, erase_jobs
from ragqueue.jobs.follow import Follower
from ragqueue.jobs.submit import Submitter
from ragqueue.jobs.views import status_of
from ragqueue.records import documents, erasures, jobs
from ragqueue.records.erasures import Receipt
from ragqueue.records.store import Records
from ragqueue.retrieval.fused import FusedRetriever
from ragqueue.storable import check_storable
from ragqueue.types import Document, Event, Hit, Job

MOST_PASSAGES = 50  # that an answer is written from
MOST_HITS = 100  # of a search


@dataclass(frozen=True, slots=True)
class Rooms:
    """What the desks of a process work with."""

    records: Records
    log: EventLog
    submitter: Submitter
    follower: Follower
    retriever: FusedRetriever
    acceptor: Acceptor
    eraser: Eraser
    models: frozenset[str]  # names of the one that answers
    max_question: int  # characters


class Page(NamedTuple):
    """A part of a list; `next`, given as `after`, goes on with it."""

    rows: list[Any]
    next: str | None


class Desk:
    """Does what one caller asks for, as one tenant. Each act raises StoreFull, Unavailable."""

    def __init__(self, rooms: Rooms, tenant: str, caller: str = "") -> None:
        """`caller`: whose Idempotency-Keys these are."""
        check_storable("tenant", tenant)
        self.tenant = tenant
        self._rooms = rooms
        self._caller = caller

    async def ask(
        self,
        question: str,
        *,
        collection: str | None = None,
        limit: int | None = None,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Accept a question durably, and return its job.

        `limit`: most passages that the answer is written from. Raises InvalidRequest, NotFound for
        a collection that the tenant does not have, QueueFull, IdempotencyConflict.
        """
        await self._check_question(question, collection, limit, most=MOST_PASSAGES)
        if model is not None and model not in self._rooms.models:
            served = " or ".join(repr(name) for name in sorted(self._rooms.models))
            raise InvalidRequest(f"model is {model!r}: this server answers with {served}")
        request = {
            "question": question,
            "collection": collection,
            "limit": limit,
            "model": model,
            "metadata": metadata,
        }
        payload = {name: value for name, value in request.items() if value is not None}
        idempotency = None
        if idempotency_key is not None:
            idempotency = f"{self._caller} {idempotency_key}"
        return await self._rooms.submitter.submit(
            self.tenant, "chat", payload, idempotency=idempotency
        )

    async def search(
        self, question: str, *, collection: str | None = None, limit: int = 10
    ) -> list[Hit]:
        """Return the passages nearest to a question, best first.

        Raises InvalidRequest, NotFound for a collection that the tenant does not have.
        """
        await self._check_question(question, collection, limit, most=MOST_HITS)
        collections = None if collection is None else [collection]
        return await self._rooms.retriever.retrieve(
            self.tenant, question, collections=collections, limit=limit
        )

    async def _check_question(
        self, question: str, collection: str | None, limit: int | None, *, most: int
    ) -> None:
        if limit is not None and not 1 <= limit <= most:
            raise InvalidRequest(f"limit is {limit!r:.40}: 1 to {most} are allowed")
        check_storable("question", question)
        check_storable("collection", collection)
        longest = self._rooms.max_question
        if not question.strip() or len(question) > longest:
            raise InvalidRequest(
                f"question has {len(question):,} characters: "
                f"1 to {longest:,} are allowed (RAGQUEUE_MAX_QUESTION)"
            )
        if collection is None:
            return
        if await self._rooms.records.read(documents.generation, self.tenant, collection) is None:
            raise NotFound(f"there is no collection {collection!r}")

    async def follow(
        self, job: Job, after: int | None = None, *, welcome: Callable[[], bool] = lambda: True
    ) -> AsyncIterator[list[Event]]:
        """Return batches of a job's events after `after` (None: all), to the terminal one."""
        return await self._rooms.follower.open(job, after, welcome=welcome)

    async def wait(self, job: Job, seconds: float) -> Job | None:
        """Return a job once it has ended; None when that takes longer than so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                async for _ in self._rooms.follower.follow(job):
                    pass
        except TimeoutError:
            return None
        return await self._rooms.records.read(jobs.get, job.tenant, job.id) or job

    async def job(self, job_id: str) -> Job:
        """Return a job. Raises NotFound."""
        job = await self._rooms.records.read(jobs.get, self.tenant, job_id)
        if job is None:
            raise NotFound(f"there is no job {job_id!r}")
        return job

    async def chat(self, job_id: str) -> Job:
        """Return the job of a question. Raises NotFound."""
        job = await self._rooms.records.read(jobs.get, self.tenant, job_id)
        if job is None or job.kind != "chat":
            raise NotFound(f"there is no chat {job_id!r}")
        return job

    async def jobs(
        self,
        *,
        state: str | None = None,
        kind: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page:
        """Return jobs, newest first. Raises InvalidRequest for an `after` that no page gave."""
        place = place_of(after) if after else None
        rows = await self._rooms.records.read(
            jobs.listed, self.tenant, state=state, kind=kind, after=place, limit=limit + 1
        )
        if len(rows) <= limit:
            return Page(rows, None)
        return Page(rows[:limit], cursor_of(rows[limit - 1]))

    async def answer(self, job: Job) -> Mapping[str, Any] | None:
        """Return the answer that an ended chat has."""
        if not job.ended:
            return None
        return await self._rooms.records.read(jobs.answer, job.tenant, job.id)

    async def cancel(self, job_id: str) -> Job:
        """Ask for the end of a job, and return it as it then is; asking twice does no harm.

        Raises NotFound, and Conflict for a delete.
        """
        job = await cancel(self._rooms.records, self._rooms.log, self.tenant, job_id)
        if job is None:
            raise NotFound(f"there is no job {job_id!r}")
        return job

    async def retry(self, job_id: str) -> Job:
        """Make a new job of a failed or cancelled one. Raises NotFound, Conflict, QueueFull."""
        return await self._rooms.submitter.retry(await self.job(job_id))

    async def erase_chat(self, job: Job) -> None:
        """Erase an ended question with its answer and events. Raises Conflict."""
        if not job.ended:
            raise Conflict(f"chat {job.id!r} is still {status_of(job)}: cancel it first")
        await erase_jobs(self._rooms.records, self._rooms.log, [(job.tenant, job.id)])

    async def upload(
        self,
        data: bytes,
        *,
        source: str,
        collection: str = "default",
        media_type: str | None = None,
    ) -> tuple[Document, Job | None]:
        """Accept a file durably; no job when the document has these bytes already.

        Raises RequestError: empty, too large, of a type that no parser reads, ...
        """
        return await self._rooms.acceptor.accept(
            self.tenant, data, source=source, collection=collection, media_type=media_type
        )

    async def document(self, document_id: str) -> Document:
        """Return a document. Raises NotFound."""
        document = await self._rooms.records.read(documents.get, self.tenant, document_id)
        if document is None:
            raise NotFound(f"there is no document {document_id!r}")
        return document

    async def documents(
        self, *, collection: str | None = None, after: str = "", limit: int = 100
    ) -> Page:
        """Return documents in order of id."""
        listed = partial(documents.listed, collection=collection, after=after, limit=limit + 1)
        rows = await self._rooms.records.read(listed, self.tenant)
        if len(rows) <= limit:
            return Page(rows, None)
        return Page(rows[:limit], rows[limit - 1].id)

    async def text(self, document: Document, version: int | None = None) -> tuple[str, int]:
        """Return (canonical text, version), of the current version by default. Raises NotFound."""
        stored = await self._rooms.records.read(
            documents.text_of, document.tenant, document.id, version
        )
        if stored is None:
            wanted = version or document.version
            raise NotFound(f"document {document.id!r} has no version {wanted}")
        return stored

    async def delete(self, document_id: str) -> Job:
        """Hide a document at once, and return the job that erases it. Raises NotFound."""
        return await self._rooms.eraser.delete(self.tenant, document_id)

    async def receipt(self, document_id: str) -> Receipt:
        """Return when a deleted document was hidden and erased, and what went. Raises NotFound."""
        receipt = await self._rooms.records.read(erasures.receipt, self.tenant, document_id)
        if receipt is None:
            raise NotFound(f"there is no receipt for document {document_id!r}")
        return receipt


def cursor_of(job: Job) -> str:
    """Return the place of a job in a list, as text: many jobs have one created_at."""
    return f"{job.created_at!r}_{job.id}"


def place_of(cursor: str) -> tuple[float, str]:
    """Return (created_at, id) of a cursor. Raises InvalidRequest for what no list has given."""
    created_at, _, job_id = cursor.partition("_")
    try:
        place = (float(created_at), job_id)
    except ValueError as error:
        raise InvalidRequest(f"after is {cursor!r}: use the `next` of the page before") from error
    check_storable("after", place)
    return place

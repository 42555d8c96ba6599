"""Read a file that came in: parse, cut, embed and store it as one new version of its document."""

import asyncio
import secrets
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from ragqueue.embedders.base import Embedder
from ragqueue.errors import Unavailable, UnreadableDocument
from ragqueue.indexes.base import Index
from ragqueue.ingestion.accept import check_generation, generation_of, sha256
from ragqueue.ingestion.reading import indexed_text
from ragqueue.parsers.pool import ParserPool
from ragqueue.records import chunks, documents, readings, uploads
from ragqueue.records.statements import to_json
from ragqueue.records.store import Records
from ragqueue.types import Document, Job, Outcome, Passage, Reading, Row, Space

QUARANTINED_AFTER = 3  # deaths of its parser
ROWS_AT_ONCE = 20  # in one transaction, which keeps other writes waiting for a few ms
_FIRST_READING = 2**53  # smaller ones are the versions of an older database
EMBED_AT_ONCE = 64  # passages between two looks at whether the job was cancelled


class Ingester:
    """Does the jobs that read files."""

    def __init__(
        self,
        records: Records,
        pool: ParserPool,
        embedder: Embedder | None,
        index: Index | None,
    ) -> None:
        self._records = records
        self._pool = pool
        self._embedder = embedder
        self._index = index
        self._generation = generation_of(embedder)

    async def run(self, job: Job) -> Outcome:
        """Do an ingest job: one new version, atomically, or the reason why not.

        Raises Conflict, Unavailable, StoreFull, and UnreadableDocument for a parser that died.
        """
        payload = job.payload
        document = await self._records.read(documents.get, job.tenant, payload["document_id"])
        data = await self._bytes_of(job.tenant, payload["upload_id"])
        if document is None or await asyncio.to_thread(sha256, data) != payload["sha256"]:
            return Outcome(
                state="failed",
                error_code="not_found",
                error_message=(
                    "the document was deleted, or replaced by a newer upload, before it was read"
                ),
            )
        await check_generation(self._records, job.tenant, document.collection, self._generation)
        try:
            reading = await self._pool.parse(data, payload["source"], payload["media_type"])
            count = await self._store(document, job, reading)
        except UnreadableDocument as error:
            return await self._refused(document, job, error)
        return Outcome(state="succeeded", result={"document_id": document.id, "chunks": count})

    async def _bytes_of(self, tenant: str, upload_id: str) -> bytes:
        """Return the bytes of a file: not all of them when it is removed meanwhile."""
        parts: list[bytes] = []
        while True:
            part = await self._records.read(uploads.part, tenant, upload_id, len(parts))
            if part is None:
                return await asyncio.to_thread(b"".join, parts)
            parts.append(part)

    async def _refused(self, document: Document, job: Job, error: UnreadableDocument) -> Outcome:
        """Note why a document cannot be read. Raises the error while another try may help."""
        reason = error.message
        if error.retryable:  # the parser died
            if job.tries + 1 < QUARANTINED_AFTER:
                raise error  # the child may have died of something else
            reason += f"; it broke its parser {QUARANTINED_AFTER} times and is not tried again"
        upload_id = job.payload["upload_id"]
        await self._records.write(documents.refuse, job.tenant, document.id, reason, upload_id)
        return Outcome(state="failed", error_code=error.code, error_message=reason)

    async def _store(self, document: Document, job: Job, reading: Reading) -> int:
        """Embed and store a text; return how many chunks it has.

        The chunks are staged, a few at a time, so that no other write waits long. Then one
        transaction makes them the document's, and the old ones go, a few at a time again.
        Raises UnreadableDocument, Unavailable when the document was changed meanwhile.
        """
        if not reading.rows:
            raise UnreadableDocument(
                f"{document.source!r} holds no text that could be answered from"
            )
        space = Space(
            tenant=document.tenant, collection=document.collection, generation=self._generation
        )
        await self._remove_stale(space, document.id, job.id)  # what broke off
        number = _FIRST_READING + secrets.randbits(52)  # of this try alone
        await self._records.note(self._begin, document, number)
        for start in range(0, len(reading.rows), ROWS_AT_ONCE):
            rows = reading.rows[start : start + ROWS_AT_ONCE]
            await self._stage(space, document.id, number, reading, rows)
        blocks = await asyncio.to_thread(to_json, reading.blocks)

        def switch(connection: Connection) -> None:
            documents.add_version(
                connection,
                document,
                reading,
                blocks=blocks,
                upload_id=job.payload["upload_id"],
                sha256=job.payload["sha256"],
                media_type=job.payload["media_type"],
            )
            count = readings.show(connection, document.tenant, document.id, number)
            if count != len(reading.rows):
                raise Unavailable(f"{document.source!r} is being read twice: it is read again")

        await self._records.write(switch)
        await self._remove_stale(space, document.id, job.id)
        return len(reading.rows)

    @staticmethod
    def _begin(connection: Connection, document: Document, number: int) -> None:
        """Begin a reading. Raises Unavailable when its document was deleted meanwhile."""
        if documents.get(connection, document.tenant, document.id) is None:
            raise Unavailable(f"document {document.id!r} was deleted while it was read")
        readings.begin(connection, document.tenant, document.id, number)

    async def _stage(
        self, space: Space, document_id: str, number: int, reading: Reading, rows: Sequence[Row]
    ) -> None:
        """Embed and keep some rows of a text, which nobody is shown yet."""
        vectors = await self._embed([_indexed(reading, row) for row in rows])
        stored = list(zip(rows, stored_vectors(vectors, len(rows)), strict=True))

        def insert(connection: Connection) -> list[int]:
            # A run that lost its lease must leave nothing that nobody would find again.
            if not readings.is_begun(connection, space.tenant, document_id, number):
                raise Unavailable(
                    f"document {document_id!r} was deleted, or read anew, while it was read"
                )
            return chunks.insert(connection, space, document_id, number, reading.language, stored)

        numbers = await self._records.note(insert)
        if vectors is not None and self._index is not None:
            await self._index.upsert(space, numbers, vectors)

    async def _remove_stale(self, space: Space, document_id: str, job_id: str) -> None:
        """Remove what is not of the document's current reading, a few at a time."""
        while True:
            numbers = await self._records.note(
                readings.remove_stale, space.tenant, document_id, job_id, ROWS_AT_ONCE
            )
            if not numbers:
                return
            if self._index is not None:
                await self._index.delete(space, numbers)

    async def _embed(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """Return one vector a text; None without an embedder."""
        if self._embedder is None:
            return None
        parts = []
        for start in range(0, len(texts), EMBED_AT_ONCE):
            parts.append(await self._embedder.embed(texts[start : start + EMBED_AT_ONCE]))
        return np.concatenate(parts)


def stored_vectors(vectors: NDArray[np.float32] | None, count: int) -> Sequence[bytes | None]:
    """Return each vector as it is stored (little-endian fp16); None `count` times without any."""
    if vectors is None:
        return [None] * count
    return [vector.tobytes() for vector in vectors.astype("<f2")]


def _indexed(reading: Reading, row: Row) -> str:
    """Return what is embedded of a row."""
    passage = Passage(
        text=reading.text[row.start : row.end],
        start=row.start,
        end=row.end,
        heading_path=row.heading_path,
        page=row.page,
    )
    return indexed_text(reading.title, passage)

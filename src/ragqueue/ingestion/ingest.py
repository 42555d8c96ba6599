"""Bring documents in: accept a file durably, then parse, chunk, embed and store it as one new version."""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from sqlalchemy import Connection

from ragqueue.embedders.base import Embedder
from ragqueue.errors import Conflict, NotFound, TooLarge, Unavailable, UnreadableDocument
from ragqueue.indexes.base import Index, Space
from ragqueue.ingestion.chunks import chunk
from ragqueue.jobs.submit import Submitter
from ragqueue.language.detect import detect
from ragqueue.parsers.pool import ParserDied, ParserPool
from ragqueue.parsers.table import media_type_of
from ragqueue.records import chunks, documents
from ragqueue.records.store import Records
from ragqueue.types import Document, Job, Outcome, Parsed, Passage

KEYWORDS_ONLY = "keywords"  # the generation of a collection without an embedder
QUARANTINED_AFTER = 3  # deaths of its parser
_EMBED_AT_ONCE = 64  # passages between two looks at whether the job was cancelled


class Attempted(Protocol):
    """What a run offers to a kind of job."""

    @property
    def job(self) -> Job: ...


class Ingester:
    """Accepts, stores and erases documents."""

    def __init__(
        self, records: Records, submitter: Submitter, pool: ParserPool, embedder: Embedder | None, index: Index | None, *, max_upload: int
    ) -> None:
        self._records, self._submitter, self._pool = records, submitter, pool
        self._embedder, self._index, self._max_upload = embedder, index, max_upload
        self.generation = embedder.name if embedder else KEYWORDS_ONLY  # that new collections are built with

    async def accept(
        self, tenant: str, data: bytes, *, source: str, collection: str = "default", media_type: str | None = None
    ) -> tuple[Document, Job | None]:
        """Store a file durably and submit its ingest; no job when the document has these bytes already.

        Raises UnsupportedMedia, TooLarge, UnreadableDocument, Conflict, QueueFull, StoreFull.
        """
        if len(data) > self._max_upload:
            raise TooLarge(f"{source!r} has {len(data):,} bytes, the limit is {self._max_upload:,} (RAGQUEUE_MAX_UPLOAD)")
        if not data:
            raise UnreadableDocument(f"{source!r} is empty: give a file with text")
        known_type = media_type_of(source, data, media_type)
        sha256 = hashlib.sha256(data).hexdigest()
        await self._check_generation(tenant, collection)
        known = await self._records.read(documents.by_source, tenant, collection, source)
        if known is not None and known.state == "ready" and known.sha256 == sha256:
            return known, None
        document_id, upload_id = known.id if known else uuid.uuid4().hex, uuid.uuid4().hex
        upload = documents.Upload(tenant, collection, source, known_type, data, sha256)
        payload = {"document_id": document_id, "upload_id": upload_id, "source": source, "media_type": known_type, "sha256": sha256}
        add = partial(documents.add_upload, upload=upload, document_id=document_id, upload_id=upload_id, generation=self.generation)
        job, _ = await self._submitter.submit(tenant, "ingest", payload, first=add)
        document = await self._records.read(documents.get, tenant, document_id)
        if document is None:
            raise NotFound(f"document {document_id!r} was deleted while it came in")
        return document, job

    async def run(self, run: Attempted) -> Outcome:
        """Do an ingest job: one new version, atomically, or the reason why not."""
        job, payload = run.job, run.job.payload
        document = await self._records.read(documents.get, job.tenant, payload["document_id"])
        data = await self._records.read(documents.upload_data, job.tenant, payload["upload_id"])
        if document is None or data is None:
            gone = "the document was deleted, or replaced by a newer upload, before it was read"
            return Outcome("failed", error_code="not_found", error_message=gone)
        await self._check_generation(job.tenant, document.collection)
        try:
            parsed = await self._pool.parse(data, payload["source"], payload["media_type"])
            passages = _passages(parsed, payload["source"])
        except UnreadableDocument as error:
            reason = error.message
            if isinstance(error, ParserDied):
                if job.tries + 1 < QUARANTINED_AFTER:
                    raise  # the child may have died of something else
                reason += f"; it broke its parser {QUARANTINED_AFTER} times and is not tried again"
            await self._records.write(_refuse, job.tenant, document.id, reason, payload["upload_id"])
            return Outcome("failed", error_code=error.code, error_message=reason)
        count = await self._store(document, payload, parsed, passages)
        return Outcome("succeeded", result={"document_id": document.id, "chunks": count})

    async def store(self, tenant: str, parsed: Parsed, *, source: str, collection: str, media_type: str) -> Document:
        """Store a text that is parsed already, without a job. Raises UnreadableDocument when nothing of it can be indexed."""
        passages = _passages(parsed, source)
        sha256, upload_id = hashlib.sha256(parsed.text.encode()).hexdigest(), uuid.uuid4().hex
        upload = documents.Upload(tenant, collection, source, media_type, b"", sha256)
        await self._records.note(documents.add_upload, upload, uuid.uuid4().hex, upload_id, self.generation)
        document = await self._records.read(documents.by_source, tenant, collection, source)
        assert document is not None
        await self._store(
            document, {"source": source, "media_type": media_type, "sha256": sha256, "upload_id": upload_id}, parsed, passages
        )
        return document

    async def _store(self, document: Document, payload: Mapping[str, Any], parsed: Parsed, passages: Sequence[Passage]) -> int:
        language = detect(parsed.text[:20_000])
        title = parsed.title or payload["source"].replace("\\", "/").rsplit("/", 1)[-1]
        texts = [indexed_text(title, passage) for passage in passages]
        vectors = await self._embed(texts)
        rows = [
            chunks.ChunkRow(passage, text, None if vectors is None else vectors[i].astype("<f2").tobytes())
            for i, (passage, text) in enumerate(zip(passages, texts, strict=True))
        ]

        def write(connection: Connection) -> list[int]:
            version = document.version + 1
            current = documents.make_ready(
                connection, document, version=version, title=title, sha256=payload["sha256"], language=language, chunks=len(rows),
                media_type=payload["media_type"],
            )  # fmt: skip
            if not current:
                raise Unavailable(f"{payload['source']!r} was changed or deleted while it was read: it is read again")
            documents.add_version(connection, document, parsed, version=version, sha256=payload["sha256"])
            chunks.remove(connection, document.tenant, document.id)
            numbers = chunks.insert(connection, document.tenant, document.collection, self.generation, document.id, version, language, rows)
            documents.drop_older_uploads(connection, document.tenant, document.id, payload["upload_id"])
            return numbers

        numbers = await self._records.write(write)
        if vectors is not None and self._index is not None:
            await self._index.upsert(Space(document.tenant, document.collection, self.generation), numbers, vectors)
        return len(numbers)

    async def _check_generation(self, tenant: str, collection: str) -> None:
        """Refuse to mix embedders: search reads a collection's active generation alone. Raises Conflict."""
        active = await self._records.read(documents.generation, tenant, collection)
        if active not in (None, self.generation):
            built = f"collection {collection!r} was built as {active!r}, this process builds {self.generation!r}"
            raise Conflict(f"{built}: set RAGQUEUE_EMBEDDER as it was, or use another collection")

    async def _embed(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]] | None:
        if self._embedder is None:
            return None
        return np.concatenate([await self._embedder.embed(texts[i : i + _EMBED_AT_ONCE]) for i in range(0, len(texts), _EMBED_AT_ONCE)])


def _passages(parsed: Parsed, source: str) -> Sequence[Passage]:
    if passages := chunk(parsed):
        return passages
    raise UnreadableDocument(f"{source!r} holds no text that could be answered from")


def indexed_text(title: str, passage: Passage) -> str:
    """Return what is embedded and tokenised for a passage: title and heading path in front, which offsets never include."""
    path = " > ".join(part for part in passage.heading_path if part != title)
    return "\n".join(part for part in (title, path, passage.text) if part)


def _refuse(connection: Connection, tenant: str, document_id: str, message: str, upload_id: str) -> None:
    documents.note_failure(connection, tenant, document_id, message)
    documents.drop_upload(connection, tenant, upload_id)

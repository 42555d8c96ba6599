"""Bring documents in: a file is kept durably, then parsed, cut, embedded and stored as one new version."""

import hashlib
import uuid

import numpy as np
from sqlalchemy import Connection

from ragqueue.embedders.base import Embedder
from ragqueue.errors import Conflict, NotFound, TooLarge, UnreadableDocument
from ragqueue.indexes.base import Index
from ragqueue.ingestion.chunks import chunk
from ragqueue.jobs.submit import Submitter
from ragqueue.language.detect import detect
from ragqueue.parsers.pool import ParserPool
from ragqueue.parsers.table import media_type_of
from ragqueue.records import chunks, documents
from ragqueue.records.store import Records
from ragqueue.storable import check_storable
from ragqueue.types import Document, Job, Outcome, Parsed, Passage, Space

KEYWORDS_ONLY = "keywords"  # the generation of a collection without an embedder
SAME_MOMENT = 3  # tries to store a file whose document changes at the same moment
QUARANTINED_AFTER = 3  # deaths of its parser
_EMBED_AT_ONCE = 64  # passages between two looks at whether the job was cancelled


class Ingester:
    def __init__(
        self,
        records: Records,
        submitter: Submitter,
        pool: ParserPool,
        embedder: Embedder | None,
        index: Index | None,
        *,
        max_upload: int,
    ) -> None:
        self._records, self._submitter, self._pool = records, submitter, pool
        self._embedder, self._index, self._max_upload = embedder, index, max_upload
        self._generation = (
            embedder.name if embedder else KEYWORDS_ONLY
        )  # that new collections are built with

    async def accept(
        self,
        tenant: str,
        data: bytes,
        *,
        source: str,
        collection: str = "default",
        media_type: str | None = None,
    ) -> tuple[Document, Job | None]:
        """Store a file durably and submit its ingest; no job when the document has these bytes already. Raises RequestError, StoreFull."""
        if len(data) > self._max_upload:
            raise TooLarge(
                f"{source!r} has {len(data):,} bytes, the limit is {self._max_upload:,} (RAGQUEUE_MAX_UPLOAD)"
            )
        if not data:
            raise UnreadableDocument(f"{source!r} is empty: give a file with text")
        check_storable("source", source)
        check_storable("collection", collection)
        known_type, sha256 = (
            media_type_of(source, data, media_type),
            hashlib.sha256(data).hexdigest(),
        )
        await self._check_generation(tenant, collection)
        for _ in range(SAME_MOMENT):
            try:
                return await self._keep(tenant, data, source, collection, known_type, sha256)
            except Conflict as error:  # it came in, or was deleted, while we looked
                conflict = error
        raise conflict

    async def _keep(
        self, tenant: str, data: bytes, source: str, collection: str, media_type: str, sha256: str
    ) -> tuple[Document, Job | None]:
        """Store the bytes under the document that has this source now. Raises Conflict when that changed meanwhile."""
        known = await self._records.read(documents.by_source, tenant, collection, source)
        if known is not None and known.state == "ready" and known.sha256 == sha256:
            return known, None
        document_id, upload_id = known.id if known else uuid.uuid4().hex, uuid.uuid4().hex
        payload = {
            "document_id": document_id,
            "upload_id": upload_id,
            "source": source,
            "media_type": media_type,
        }

        def add(connection: Connection, _: str) -> None:
            documents.add_upload(
                connection,
                tenant=tenant,
                collection=collection,
                data=data,
                generation=self._generation,
                **payload,
            )

        job = await self._submitter.submit(
            tenant, "ingest", payload | {"sha256": sha256}, first=add
        )
        document = await self._records.read(documents.get, tenant, document_id)
        if document is None:
            raise NotFound(f"document {document_id!r} was deleted while it came in")
        return document, job

    async def run(self, job: Job) -> Outcome:
        """Do an ingest job: one new version, atomically, or the reason why not."""
        payload = job.payload
        document = await self._records.read(documents.get, job.tenant, payload["document_id"])
        data = await self._records.read(documents.upload_data, job.tenant, payload["upload_id"])
        if document is None or data is None:
            return Outcome(
                "failed",
                None,
                "not_found",
                "the document was deleted, or replaced by a newer upload, before it was read",
            )
        await self._check_generation(job.tenant, document.collection)
        try:
            count = await self._store(
                document,
                job,
                await self._pool.parse(data, payload["source"], payload["media_type"]),
            )
        except UnreadableDocument as error:
            reason = error.message
            if error.retryable:  # the parser died
                if job.tries + 1 < QUARANTINED_AFTER:
                    raise  # the child may have died of something else
                reason += f"; it broke its parser {QUARANTINED_AFTER} times and is not tried again"
            await self._records.write(
                documents.refuse, job.tenant, document.id, reason, payload["upload_id"]
            )
            return Outcome("failed", None, error.code, reason)
        return Outcome("succeeded", result={"document_id": document.id, "chunks": count})

    async def _store(self, document: Document, job: Job, parsed: Parsed) -> int:
        said = {name: job.payload[name] for name in ("sha256", "media_type", "upload_id")}
        title = parsed.title or document.source.replace("\\", "/").rsplit("/", 1)[-1]
        passages, language, tenant = chunk(parsed), detect(parsed.text), document.tenant
        if not passages:
            raise UnreadableDocument(
                f"{document.source!r} holds no text that could be answered from"
            )
        texts, vectors = [indexed_text(title, passage) for passage in passages], None
        if self._embedder is not None:
            starts = range(0, len(texts), _EMBED_AT_ONCE)
            vectors = np.concatenate(
                [await self._embedder.embed(texts[at : at + _EMBED_AT_ONCE]) for at in starts]
            )
        halves = (
            [None] * len(texts)
            if vectors is None
            else [vector.tobytes() for vector in vectors.astype("<f2")]
        )
        rows, space = (
            list(zip(passages, texts, halves, strict=True)),
            Space(tenant, document.collection, self._generation),
        )

        def write(connection: Connection) -> tuple[list[int], list[int]]:
            documents.add_version(
                connection,
                document,
                parsed,
                title=title,
                language=language,
                chunks=len(rows),
                **said,
            )
            replaced = chunks.remove(connection, tenant, document.id)
            return replaced, chunks.insert(
                connection, space, document.id, document.version + 1, language, rows
            )

        replaced, numbers = await self._records.write(write)
        if vectors is not None and self._index is not None:
            await self._index.delete(space, replaced)
            await self._index.upsert(space, numbers, vectors)
        return len(numbers)

    async def _check_generation(self, tenant: str, collection: str) -> None:
        """Refuse to mix embedders: search reads a collection's active generation alone. Raises Conflict."""
        active = await self._records.read(documents.generation, tenant, collection)
        if active not in (None, self._generation):
            built = f"collection {collection!r} was built as {active!r}, this process builds {self._generation!r}"
            raise Conflict(f"{built}: set RAGQUEUE_EMBEDDER as it was, or use another collection")


def indexed_text(title: str, passage: Passage) -> str:
    """Return what is embedded and tokenised for a passage: title and heading path in front, which offsets never include."""
    path = " > ".join(part for part in passage.heading_path if part != title)
    return "\n".join(part for part in (title, path, passage.text) if part)

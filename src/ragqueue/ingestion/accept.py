"""Take files in: their bytes are kept durably, and a job is submitted that reads them."""

import asyncio
import hashlib
import uuid
from contextlib import suppress
from typing import NamedTuple

from sqlalchemy import Connection

from ragqueue.embedders.base import Embedder
from ragqueue.errors import (
    Conflict,
    NotFound,
    RagqueueError,
    TooLarge,
    Unavailable,
    UnreadableDocument,
)
from ragqueue.jobs.submit import Submitter
from ragqueue.parsers.table import media_type_of
from ragqueue.records import documents, uploads
from ragqueue.records.store import Records
from ragqueue.storable import check_storable
from ragqueue.types import Document, Job

KEYWORDS_ONLY = "keywords"  # the generation of a collection without an embedder
SAME_MOMENT = 3  # tries to store a file whose document changes at the same moment
PART = 1_000_000  # bytes of a file in one row


class Upload(NamedTuple):
    """A file as it came in."""

    tenant: str
    collection: str
    source: str
    media_type: str
    sha256: str


class Acceptor:
    """Accepts files, and submits the jobs that read them."""

    def __init__(
        self, records: Records, submitter: Submitter, generation: str, *, max_upload: int
    ) -> None:
        """`generation`: that new collections are built with. `max_upload`: bytes of a file."""
        self._records = records
        self._submitter = submitter
        self._generation = generation
        self._max_upload = max_upload

    async def accept(
        self,
        tenant: str,
        data: bytes,
        *,
        source: str,
        collection: str = "default",
        media_type: str | None = None,
    ) -> tuple[Document, Job | None]:
        """Store a file durably and submit its ingest.

        There is no job when the document has these bytes already. Raises RequestError, StoreFull.
        """
        self._check(data, source, collection)
        upload = Upload(
            tenant=tenant,
            collection=collection,
            source=source,
            media_type=media_type_of(source, data, media_type),
            sha256=await asyncio.to_thread(sha256, data),  # 50 MB take 0.2 s
        )
        await check_generation(self._records, tenant, collection, self._generation)
        known = await self._find(upload)
        if known is not None and _has(known, upload):
            return known, None
        await self._submitter.check_room(tenant, "ingest")
        return await self._take_in(upload, data)

    def _check(self, data: bytes, source: str, collection: str) -> None:
        """Raise RequestError for what cannot be stored."""
        if len(data) > self._max_upload:
            raise TooLarge(
                f"{source!r} has {len(data):,} bytes, "
                f"the limit is {self._max_upload:,} (RAGQUEUE_MAX_UPLOAD)"
            )
        if not data:
            raise UnreadableDocument(f"{source!r} is empty: give a file with text")
        check_storable("source", source)
        check_storable("collection", collection)

    async def _take_in(self, upload: Upload, data: bytes) -> tuple[Document, Job | None]:
        """Keep the bytes of a file and submit its ingest; leave none of them when that fails."""
        upload_id = uuid.uuid4().hex
        try:
            await self._keep_bytes(upload, upload_id, data)
            for _ in range(SAME_MOMENT):
                try:
                    return await self._submit(upload, upload_id)
                except Conflict as error:  # it came in, or was deleted, while we looked
                    conflict = error
            raise conflict
        except BaseException:
            with suppress(RagqueueError):  # else it is forgotten in time
                await self._records.note(uploads.drop_untaken, upload.tenant, upload_id)
            raise

    async def _find(self, upload: Upload) -> Document | None:
        """Return the document that has this source now."""
        return await self._records.read(
            documents.by_source, upload.tenant, upload.collection, upload.source
        )

    async def _keep_bytes(self, upload: Upload, upload_id: str, data: bytes) -> None:
        """Store the bytes of a file, a part at a time. Raises StoreFull, Unavailable."""
        tenant = upload.tenant
        await self._records.note(uploads.begin, tenant, upload_id, data[:PART])
        for n, start in enumerate(range(PART, len(data), PART), 1):
            part = data[start : start + PART]
            if not await self._records.note(uploads.add_part, tenant, upload_id, n, part):
                raise Unavailable(f"{upload.source!r} took too long to come in: send it again")

    async def _submit(self, upload: Upload, upload_id: str) -> tuple[Document, Job | None]:
        """Submit the ingest of a file under the document that has its source now.

        Raises Conflict when that changed meanwhile.
        """
        tenant = upload.tenant
        known = await self._find(upload)
        if known is not None and _has(known, upload):
            await self._records.note(uploads.drop_untaken, tenant, upload_id)
            return known, None
        document_id = known.id if known else uuid.uuid4().hex

        def add(connection: Connection, _: str) -> None:
            documents.add_upload(
                connection,
                tenant=tenant,
                collection=upload.collection,
                source=upload.source,
                media_type=upload.media_type,
                document_id=document_id,
                upload_id=upload_id,
                generation=self._generation,
            )

        payload = {
            "document_id": document_id,
            "upload_id": upload_id,
            "source": upload.source,
            "media_type": upload.media_type,
            "sha256": upload.sha256,
        }
        job = await self._submitter.submit(tenant, "ingest", payload, first=add)
        document = await self._records.read(documents.get, tenant, document_id)
        if document is None:
            raise NotFound(f"document {document_id!r} was deleted while it came in")
        return document, job


def _has(document: Document, upload: Upload) -> bool:
    """Say whether a document was read from these bytes."""
    return document.state == "ready" and document.sha256 == upload.sha256


def generation_of(embedder: Embedder | None) -> str:
    """Return the generation of the collections that are built with an embedder."""
    return embedder.name if embedder else KEYWORDS_ONLY


async def check_generation(records: Records, tenant: str, collection: str, generation: str) -> None:
    """Refuse to mix embedders: search reads a collection's active generation alone.

    Raises Conflict.
    """
    active = await records.read(documents.generation, tenant, collection)
    if active not in (None, generation):
        raise Conflict(
            f"collection {collection!r} was built as {active!r}, "
            f"this process builds {generation!r}: "
            "set RAGQUEUE_EMBEDDER as it was, or use another collection"
        )


def sha256(data: bytes) -> str:
    """Return the hash that says whether two files have the same bytes."""
    return hashlib.sha256(data).hexdigest()

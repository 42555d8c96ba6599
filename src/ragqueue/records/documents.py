"""The rows of documents: what a user gave, its versions, and what a delete leaves behind."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Table, and_, bindparam, delete, func, insert, select, text, update

from ragqueue.errors import Conflict
from ragqueue.records.schema import answers, collections, documents, jobs, quotes, uploads, versions
from ragqueue.records.store import now, to_json
from ragqueue.types import ENDED, Document, Parsed

_LIVE = documents.c.state != "deleted"
_DOCUMENTS = select(*(documents.c[name] for name in Document.__dataclass_fields__)).where(_LIVE)
_DELETED = (  # built once, as it is run for each job
    select(documents.c.id)
    .join(quotes, and_(quotes.c.tenant == documents.c.tenant, quotes.c.document_id == documents.c.id))
    .where(quotes.c.tenant == bindparam("tenant"), quotes.c.job_id == bindparam("job_id"), ~_LIVE)
    .limit(1)
)
_QUOTE = text("insert into quotes (tenant, document_id, job_id) values (:tenant, :document_id, :job_id) on conflict do nothing")


@dataclass(frozen=True, slots=True)
class Upload:
    """A file on its way in."""

    tenant: str
    collection: str
    source: str
    media_type: str
    data: bytes
    sha256: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """When a document was hidden and erased, and what the erasure removed."""

    hidden_at: float
    erased_at: float | None
    counts: Mapping[str, int]


def _one(tenant: str, document_id: str) -> ColumnElement[bool]:
    return and_(documents.c.tenant == tenant, documents.c.id == document_id)


def _of(table: Table, tenant: str, document_id: str) -> ColumnElement[bool]:
    return and_(table.c.tenant == tenant, table.c.document_id == document_id)


def get(connection: Connection, tenant: str, document_id: str) -> Document | None:
    """Return the tenant's document, deleted ones left out."""
    row = connection.execute(_DOCUMENTS.where(_one(tenant, document_id))).first()
    return Document(*row) if row else None


def by_source(connection: Connection, tenant: str, collection: str, source: str) -> Document | None:
    """Return the document that was given under this source."""
    row = connection.execute(_DOCUMENTS.filter_by(tenant=tenant, collection=collection, source=source)).first()
    return Document(*row) if row else None


def listed(connection: Connection, tenant: str, *, collection: str | None, after: str, limit: int) -> list[Document]:
    """Return the tenant's documents in order of id."""
    query = _DOCUMENTS.where(documents.c.tenant == tenant, documents.c.id > after).order_by(documents.c.id).limit(limit)
    return [Document(*row) for row in connection.execute(query if collection is None else query.filter_by(collection=collection))]


def counted(connection: Connection, tenant: str) -> tuple[int, int]:
    """Return how many documents and chunks of the tenant are ready."""
    query = select(func.count(), func.coalesce(func.sum(documents.c.chunks), 0)).filter_by(tenant=tenant, state="ready")
    ready, chunks = connection.execute(query).one()
    return int(ready), int(chunks)


def languages(connection: Connection, tenant: str) -> dict[str, int]:
    """Return how many ready documents the tenant has in each language."""
    query = select(documents.c.language, func.count()).filter_by(tenant=tenant, state="ready").group_by(documents.c.language)
    return {language: count for language, count in connection.execute(query)}


def add_upload(connection: Connection, upload: Upload, document_id: str, upload_id: str, generation: str) -> None:
    """Store the bytes of a file, and its document if the source is new. Raises Conflict when the source became another document."""
    tenant, at = upload.tenant, connection.execute(select(now())).scalar_one()
    known = by_source(connection, tenant, upload.collection, upload.source)
    if known is not None and known.id != document_id:
        raise Conflict(f"{upload.source!r} came in twice at the same moment: send it again")
    if known is None:
        row = {
            "tenant": tenant, "id": document_id, "collection": upload.collection, "source": upload.source,
            "media_type": upload.media_type, "title": "", "version": 0, "state": "pending", "sha256": "", "language": "", "chunks": 0,
            "created_at": at, "updated_at": at,
        }  # fmt: skip
        connection.execute(insert(documents), row)
    if connection.execute(select(collections.c.name).filter_by(tenant=tenant, name=upload.collection)).first() is None:
        row = {"tenant": tenant, "name": upload.collection, "generation": generation, "created_at": at}
        connection.execute(insert(collections), row)
    row = {"tenant": tenant, "id": upload_id, "document_id": document_id, "data": upload.data, "created_at": at}
    connection.execute(insert(uploads), row)


def generation(connection: Connection, tenant: str, collection: str) -> str | None:
    """Return the active generation of a collection."""
    return connection.execute(select(collections.c.generation).filter_by(tenant=tenant, name=collection)).scalar()


def upload_data(connection: Connection, tenant: str, upload_id: str) -> bytes | None:
    """Return the bytes of an upload."""
    return connection.execute(select(uploads.c.data).filter_by(tenant=tenant, id=upload_id)).scalar()


def drop_upload(connection: Connection, tenant: str, upload_id: str) -> None:
    """Drop the bytes of a file that cannot be read."""
    connection.execute(delete(uploads).filter_by(tenant=tenant, id=upload_id))


def drop_older_uploads(connection: Connection, tenant: str, document_id: str, upload_id: str) -> None:
    """Drop what came in for a document before this upload; what came in after it still waits for its own ingest."""
    came = select(uploads.c.created_at).filter_by(tenant=tenant, id=upload_id).scalar_subquery()
    connection.execute(delete(uploads).where(_of(uploads, tenant, document_id), uploads.c.created_at < came))


def add_version(connection: Connection, document: Document, parsed: Parsed, *, version: int, sha256: str) -> None:
    """Store one canonical text with its blocks."""
    blocks = [[b.kind, b.start, b.end, list(b.heading_path), b.page] for b in parsed.blocks]
    row = {
        "tenant": document.tenant, "document_id": document.id, "version": version, "text": parsed.text, "pages": parsed.pages,
        "blocks": to_json(blocks), "sha256": sha256, "created_at": now(),
    }  # fmt: skip
    connection.execute(insert(versions).values(row))


def make_ready(
    connection: Connection, document: Document, *, version: int, title: str, sha256: str, language: str, chunks: int, media_type: str
) -> bool:
    """Make a version the current one; False when the document was deleted or another version came first."""
    unchanged = and_(_one(document.tenant, document.id), _LIVE, documents.c.version == document.version)
    values = {
        "version": version, "state": "ready", "title": title, "sha256": sha256, "language": language, "chunks": chunks, "error": None,
        "media_type": media_type, "updated_at": now(),
    }  # fmt: skip
    return bool(connection.execute(update(documents).where(unchanged).values(values)).rowcount)


def note_failure(connection: Connection, tenant: str, document_id: str, message: str) -> None:
    """Say why a document could not be read; an older version of it stays as it is."""
    mine = and_(_one(tenant, document_id), _LIVE)
    connection.execute(update(documents).where(mine).values(error=message, updated_at=now()))
    connection.execute(update(documents).where(mine, documents.c.version == 0).values(state="failed"))


def text_of(connection: Connection, tenant: str, document_id: str, version: int | None) -> tuple[str, int] | None:
    """Return (canonical text, version); the current version when none is given. A deleted document has none."""
    document = get(connection, tenant, document_id)
    if document is None:
        return None
    wanted = document.version if version is None else version
    found = connection.execute(select(versions.c.text).where(_of(versions, tenant, document_id), versions.c.version == wanted)).scalar()
    return None if found is None else (found, wanted)


def replaced(connection: Connection, age: float, limit: int) -> list[tuple[str, str, int]]:
    """Return (tenant, document, version) of texts that a newer version replaced more than `age` seconds ago."""
    newer = versions.alias()
    same = and_(newer.c.tenant == versions.c.tenant, newer.c.document_id == versions.c.document_id)
    newer_one = select(newer.c.version).where(same, newer.c.version > versions.c.version, newer.c.created_at < now() - age)
    query = select(versions.c.tenant, versions.c.document_id, versions.c.version).where(newer_one.exists()).limit(limit)
    return [(tenant, document_id, version) for tenant, document_id, version in connection.execute(query)]


def forget_versions(connection: Connection, keys: Sequence[tuple[str, str, int]]) -> None:
    """Drop the texts of these versions."""
    for tenant, document_id, version in keys:
        connection.execute(delete(versions).where(_of(versions, tenant, document_id), versions.c.version == version))


def hide(connection: Connection, tenant: str, document_id: str) -> bool:
    """Delete a document from the sight of every process; False when there is none."""
    mine = update(documents).where(_one(tenant, document_id), _LIVE)
    return bool(connection.execute(mine.values(state="deleted", hidden_at=now())).rowcount)


def receipt(connection: Connection, tenant: str, document_id: str) -> Receipt | None:
    """Return the receipt of a deleted document."""
    columns = select(documents.c.hidden_at, documents.c.erased_at, documents.c.counts)
    row = connection.execute(columns.where(_one(tenant, document_id), ~_LIVE)).first()
    return Receipt(row.hidden_at, row.erased_at, json.loads(row.counts or "{}")) if row else None


def space_of(connection: Connection, tenant: str, document_id: str) -> tuple[str, str] | None:
    """Return (collection, active generation) of a document, also of a deleted one."""
    same = and_(collections.c.tenant == documents.c.tenant, collections.c.name == documents.c.collection)
    query = select(collections.c.name, collections.c.generation).join(documents, same)
    row = connection.execute(query.where(_one(tenant, document_id))).first()
    return (row.name, row.generation) if row else None


def quoting(connection: Connection, tenant: str, document_id: str) -> list[str]:
    """Return the jobs that were shown passages of a document."""
    return list(connection.execute(select(quotes.c.job_id).where(_of(quotes, tenant, document_id))).scalars())


def note_quotes(connection: Connection, tenant: str, job_id: str, document_ids: Sequence[str]) -> None:
    """Remember that a job was shown passages of these documents."""
    if document_ids:
        connection.execute(_QUOTE, [{"tenant": tenant, "document_id": d, "job_id": job_id} for d in sorted(set(document_ids))])


def any_deleted(connection: Connection, tenant: str, job_id: str) -> bool:
    """Say whether a document that a job was shown has been deleted."""
    return connection.execute(_DELETED, {"tenant": tenant, "job_id": job_id}).first() is not None


def erase_answers(connection: Connection, tenant: str, job_ids: Sequence[str]) -> int:
    """Erase the answers of ended jobs; return how many went."""
    ended = select(jobs.c.id).where(jobs.c.tenant == tenant, jobs.c.id.in_(job_ids), jobs.c.state.in_(ENDED))
    return connection.execute(delete(answers).where(answers.c.tenant == tenant, answers.c.job_id.in_(ended))).rowcount


def erase(connection: Connection, tenant: str, document_id: str) -> dict[str, int]:
    """Erase a deleted document's texts and bytes and its name; return the counts."""
    texts = connection.execute(delete(versions).where(_of(versions, tenant, document_id))).rowcount
    files = connection.execute(delete(uploads).where(_of(uploads, tenant, document_id))).rowcount
    connection.execute(update(documents).where(_one(tenant, document_id)).values(source="", title="", sha256="", error=None))
    return {"versions": texts, "files": files}


def note_erased(connection: Connection, tenant: str, document_id: str, counts: Mapping[str, int]) -> None:
    """Complete the receipt."""
    said = to_json(counts)
    connection.execute(update(documents).where(_one(tenant, document_id)).values(erased_at=now(), counts=said))
    connection.execute(delete(quotes).where(_of(quotes, tenant, document_id)))

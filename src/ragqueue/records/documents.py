"""The rows of documents: what a user gave, its versions, and what a delete leaves behind."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, and_, case, delete, func, insert, select, text, update

from ragqueue.errors import Conflict, NotFound, Unavailable
from ragqueue.records.schema import answers, collections, documents, jobs, quotes, uploads, versions
from ragqueue.records.store import NOW, to_json
from ragqueue.types import ENDED, Document, Parsed, Space

_LIVE = documents.c.state != "deleted"
_DOCUMENTS = select(*(documents.c[name] for name in Document._fields)).where(_LIVE)
_QUOTE = text(
    "insert into quotes (tenant, document_id, job_id) values (:tenant, :document_id, :job_id) on conflict do nothing"
)
_UNERASED = text(f"""
    select d.tenant, d.id from documents d left join jobs j on j.id = d.erasure
    where d.state = 'deleted' and d.erased_at is null and d.cleared_at is null
    and (j.id is null or (j.state not in ('queued', 'running') and j.ended_at < {NOW} - :pause)) limit 100""")
_TAKE_ERASURE = text("""
    update documents set erasure = :erasure
    where tenant = :tenant and id = :document_id and state = 'deleted' and erased_at is null and not exists (
        select 1 from jobs j where j.id = documents.erasure and j.state in ('queued', 'running'))""")
_CLEARED = text("""
    select tenant, id from documents where state = 'deleted' and erased_at is null and cleared_at is not null""")
_ERASED = text(f"""
    update documents set erased_at = {NOW} where tenant = :tenant and id = :document_id and erased_at is null""")
_HIDDEN = text("""
    select 1 from documents where tenant = :tenant and state = 'deleted'
    and id in (select value from json_each(:ids)) limit 1""")
_FORGET_TEXTS = text(f"""
    delete from versions where (tenant, document_id, version) in (select tenant, document_id, version from versions v where exists (
        select 1 from versions newer where newer.tenant = v.tenant and newer.document_id = v.document_id
        and newer.version > v.version and newer.created_at < {NOW} - :age) limit 1000)""")
_FORGET_REMOVALS = text(f"""
    delete from removals where at < {NOW} - :age and seq < (select max(seq) from removals last where last.tenant = removals.tenant
    and last.collection = removals.collection and last.generation = removals.generation)""")


class Receipt(NamedTuple):
    """When a document was hidden and erased, and what the erasure removed."""

    hidden_at: float
    erased_at: float | None
    counts: Mapping[str, int]


def get(connection: Connection, tenant: str, document_id: str) -> Document | None:
    """Return the tenant's document, deleted ones left out."""
    row = connection.execute(_DOCUMENTS.filter_by(tenant=tenant, id=document_id)).first()
    return Document(*row) if row else None


def by_source(connection: Connection, tenant: str, collection: str, source: str) -> Document | None:
    """Return the document that was given under this source."""
    row = connection.execute(
        _DOCUMENTS.filter_by(tenant=tenant, collection=collection, source=source)
    ).first()
    return Document(*row) if row else None


def listed(
    connection: Connection, tenant: str, *, collection: str | None, after: str, limit: int
) -> list[Document]:
    """Return the tenant's documents in order of id."""
    query = (
        _DOCUMENTS.where(documents.c.tenant == tenant, documents.c.id > after)
        .order_by(documents.c.id)
        .limit(limit)
    )
    return [
        Document(*row)
        for row in connection.execute(
            query if collection is None else query.filter_by(collection=collection)
        )
    ]


def counted(connection: Connection, tenant: str) -> dict[str, tuple[int, int]]:
    """Return how many documents and chunks of the tenant are ready, by language."""
    query = select(documents.c.language, func.count(), func.sum(documents.c.chunks)).filter_by(
        tenant=tenant, state="ready"
    )
    return {
        language: (ready, chunks)
        for language, ready, chunks in connection.execute(query.group_by(documents.c.language))
    }


def add_upload(
    connection: Connection,
    /,
    *,
    tenant: str,
    collection: str,
    source: str,
    media_type: str,
    data: bytes,
    document_id: str,
    upload_id: str,
    generation: str,
) -> None:
    """Store the bytes of a file, and its document if the source is new. Raises Conflict when the source is another document by now, or was deleted."""
    known, at = (
        by_source(connection, tenant, collection, source),
        connection.execute(select(NOW)).scalar_one(),
    )
    deleted = (
        known is None
        and connection.execute(
            select(documents.c.id).filter_by(tenant=tenant, id=document_id)
        ).first()
    )
    if deleted or (known is not None and known.id != document_id):
        raise Conflict(
            f"{source!r} came in, or was deleted, twice at the same moment: send it again"
        )
    if known is None:
        given = (tenant, document_id, collection, source, media_type)
        new = Document(
            *given,
            title="",
            version=0,
            state="pending",
            sha256="",
            language="",
            chunks=0,
            created_at=at,
            updated_at=at,
        )
        connection.execute(insert(documents), new._asdict())
    row = {"tenant": tenant, "name": collection, "generation": generation, "created_at": at}
    connection.execute(insert(collections).prefix_with("or ignore"), row)
    connection.execute(
        insert(uploads),
        {
            "tenant": tenant,
            "id": upload_id,
            "document_id": document_id,
            "data": data,
            "created_at": at,
        },
    )


def generation(connection: Connection, tenant: str, collection: str) -> str | None:
    """Return the active generation of a collection."""
    return connection.scalar(
        select(collections.c.generation).filter_by(tenant=tenant, name=collection)
    )


def upload_data(connection: Connection, tenant: str, upload_id: str) -> bytes | None:
    """Return the bytes of an upload."""
    return connection.scalar(select(uploads.c.data).filter_by(tenant=tenant, id=upload_id))


def refuse(
    connection: Connection, tenant: str, document_id: str, message: str, upload_id: str
) -> None:
    """Say why a document could not be read, and drop the bytes; an older version of it stays as it is."""
    values = {
        "error": message,
        "updated_at": NOW,
        "state": case((documents.c.version == 0, "failed"), else_=documents.c.state),
    }
    connection.execute(
        update(documents).where(_LIVE).filter_by(tenant=tenant, id=document_id).values(values)
    )
    connection.execute(delete(uploads).filter_by(tenant=tenant, id=upload_id))


def add_version(
    connection: Connection, document: Document, parsed: Parsed, *, upload_id: str, **said: str | int
) -> None:
    """Make a text the next version of a document and drop its older uploads. Raises Unavailable when it was changed or deleted meanwhile.

    `said`: title, sha256, language, chunks (how many), media_type.
    """
    tenant, document_id, version = document.tenant, document.id, document.version + 1
    unchanged = (
        update(documents)
        .where(_LIVE)
        .filter_by(tenant=tenant, id=document_id, version=document.version)
    )
    if not connection.execute(
        unchanged.values(version=version, state="ready", error=None, updated_at=NOW, **said)
    ).rowcount:
        raise Unavailable(
            f"{document.source!r} was changed or deleted while it was read: it is read again"
        )
    row = {
        "tenant": tenant,
        "document_id": document_id,
        "version": version,
        "sha256": said["sha256"],
        "created_at": NOW,
    }
    connection.execute(
        insert(versions).values(
            row | {"text": parsed.text, "pages": parsed.pages, "blocks": parsed.blocks}
        )
    )
    came = (
        select(uploads.c.created_at).filter_by(tenant=tenant, id=upload_id).scalar_subquery()
    )  # what came later has its own ingest
    connection.execute(
        delete(uploads)
        .where(uploads.c.created_at < came)
        .filter_by(tenant=tenant, document_id=document_id)
    )


def text_of(
    connection: Connection, tenant: str, document_id: str, version: int | None
) -> tuple[str, int] | None:
    """Return (canonical text, version); the current version when none is given. A deleted document has none."""
    same = and_(versions.c.tenant == documents.c.tenant, versions.c.document_id == documents.c.id)
    query = (
        select(versions.c.text, versions.c.version)
        .join(documents, same)
        .where(_LIVE, documents.c.id == document_id)
    )
    wanted = documents.c.version if version is None else version
    return connection.execute(
        query.where(documents.c.tenant == tenant, versions.c.version == wanted)
    ).first()


def forget_replaced(connection: Connection, age: float) -> None:
    """Drop at most 1,000 texts, and the removals of vectors, that are older than `age` seconds; a space's last one says how far a replica is."""
    for statement in (_FORGET_TEXTS, _FORGET_REMOVALS):
        connection.execute(statement, {"age": age})


def hide(connection: Connection, erasure: str, *, tenant: str, document_id: str) -> None:
    """Delete a document from the sight of every process; `erasure` is the job that will erase it. Raises NotFound."""
    mine = update(documents).where(_LIVE).filter_by(tenant=tenant, id=document_id)
    if not connection.execute(
        mine.values(state="deleted", hidden_at=NOW, erasure=erasure)
    ).rowcount:
        raise NotFound(f"there is no document {document_id!r}")


def unerased(connection: Connection, pause: float) -> list[tuple[str, str]]:
    """Return (tenant, id) of hidden documents that no job erases, nor did in the last `pause` seconds."""
    return list(connection.execute(_UNERASED, {"pause": pause}))


def take_erasure(connection: Connection, erasure: str, *, tenant: str, document_id: str) -> None:
    """Make a job the one that erases a hidden document. Raises Conflict when another one does, or has done so."""
    given = {"erasure": erasure, "tenant": tenant, "document_id": document_id}
    if not connection.execute(_TAKE_ERASURE, given).rowcount:
        raise Conflict(f"document {document_id!r} is being erased, or has been")


def receipt(connection: Connection, tenant: str, document_id: str) -> Receipt | None:
    """Return the receipt of a deleted document."""
    query = select(documents.c.hidden_at, documents.c.erased_at, documents.c.counts).where(~_LIVE)
    row = connection.execute(query.filter_by(tenant=tenant, id=document_id)).first()
    return Receipt(row.hidden_at, row.erased_at, row.counts or {}) if row else None


def space_of(connection: Connection, tenant: str, document_id: str) -> Space | None:
    """Return where a document is, also a deleted one."""
    same = and_(
        collections.c.tenant == documents.c.tenant, collections.c.name == documents.c.collection
    )
    query = select(collections.c.tenant, collections.c.name, collections.c.generation).join_from(
        documents, collections, same
    )
    row = connection.execute(
        query.where(documents.c.tenant == tenant, documents.c.id == document_id)
    ).first()
    return Space(*row) if row else None


def note_quotes(
    connection: Connection, tenant: str, job_id: str, document_ids: Sequence[str]
) -> bool:
    """Remember that a job is shown passages of these documents; False when one of them was deleted: then it must not be."""
    ids = sorted(set(document_ids))
    if connection.execute(_HIDDEN, {"tenant": tenant, "ids": to_json(ids)}).first():
        return False
    if ids:
        connection.execute(
            _QUOTE, [{"tenant": tenant, "document_id": d, "job_id": job_id} for d in ids]
        )
    return True


def erase(connection: Connection, tenant: str, document_id: str) -> dict[str, int]:
    """Erase a deleted document's texts, bytes and name, and the answers of ended jobs that were shown it; return the counts."""
    shown = select(quotes.c.job_id).filter_by(tenant=tenant, document_id=document_id)
    ended = select(jobs.c.id).where(
        jobs.c.tenant == tenant, jobs.c.id.in_(shown), jobs.c.state.in_(ENDED)
    )
    doomed = {
        "versions": delete(versions).filter_by(tenant=tenant, document_id=document_id),
        "files": delete(uploads).filter_by(tenant=tenant, document_id=document_id),
        "answers": delete(answers).where(answers.c.tenant == tenant, answers.c.job_id.in_(ended)),
    }
    connection.execute(
        update(documents)
        .filter_by(tenant=tenant, id=document_id)
        .values(source="", title="", sha256="", error=None)
    )
    return {name: connection.execute(query).rowcount for name, query in doomed.items()}


def note_cleared(
    connection: Connection, tenant: str, document_id: str, counts: Mapping[str, int]
) -> None:
    """Note that the rows of a hidden document are gone, and what went."""
    mine = (
        update(documents)
        .filter_by(tenant=tenant, id=document_id)
        .where(documents.c.cleared_at.is_(None))
    )
    connection.execute(mine.values(cleared_at=NOW, counts=counts))
    connection.execute(delete(quotes).filter_by(tenant=tenant, document_id=document_id))


def cleared(connection: Connection) -> list[tuple[str, str]]:
    """Return (tenant, id) of the documents whose rows are gone, but maybe not every copy of them in the file."""
    return list(connection.execute(_CLEARED))


def note_erased(connection: Connection, ids: Sequence[tuple[str, str]]) -> None:
    """Complete the receipts of these documents, given as (tenant, id)."""
    for tenant, document_id in ids:
        connection.execute(_ERASED, {"tenant": tenant, "document_id": document_id})

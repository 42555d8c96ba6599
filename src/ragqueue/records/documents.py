"""The rows of documents: what a user gave, and its versions."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row

from ragqueue.errors import Conflict, Unavailable
from ragqueue.records import uploads
from ragqueue.records.statements import as_list, sql
from ragqueue.types import Document, Reading, Space

_COLUMNS = """
    tenant, id, collection, source, media_type, title, version, state, sha256, language, chunks,
    created_at, updated_at, error"""

_GET = sql(f"""
    select {_COLUMNS} from documents
    where tenant = :tenant and id = :document_id and state <> 'deleted'""")

_BY_SOURCE = sql(f"""
    select {_COLUMNS} from documents
    where tenant = :tenant and collection = :collection and source = :source
    and state <> 'deleted'""")

_COUNTED = sql("""
    select language, count(*) as documents, sum(chunks) as chunks from documents
    where tenant = :tenant and state = 'ready'
    group by language""")

_EXISTS = sql("select 1 from documents where tenant = :tenant and id = :document_id")

_INSERT = sql("""
    insert into documents (
        tenant, id, collection, source, media_type, title, version, state, sha256, language,
        chunks, created_at, updated_at)
    values (
        :tenant, :document_id, :collection, :source, :media_type, '', 0, 'pending', '', '',
        0, {now}, {now})""")

_INSERT_COLLECTION = sql("""
    insert into collections (tenant, name, generation, created_at)
    values (:tenant, :collection, :generation, {now})
    on conflict do nothing""")

_GENERATION = sql("""
    select generation from collections where tenant = :tenant and name = :collection""")

_REFUSE = sql("""
    update documents
    set error = :error, updated_at = {now}, state = case version when 0 then 'failed' else state end
    where tenant = :tenant and id = :document_id and state <> 'deleted'""")

_SWITCH = sql("""
    update documents
    set version = :version + 1, state = 'ready', error = null, updated_at = {now}, title = :title,
        sha256 = :sha256, language = :language, chunks = :chunks, media_type = :media_type
    where tenant = :tenant and id = :document_id and version = :version and state <> 'deleted'""")

_REPLACE = sql("""
    update versions set replaced_at = {now}
    where tenant = :tenant and document_id = :document_id and version = :version""")

_INSERT_VERSION = sql("""
    insert into versions (
        tenant, document_id, version, text, blocks, pages, sha256, created_at)
    values (
        :tenant, :document_id, :version + 1, :text, :blocks, :pages, :sha256, {now})""")

_TEXT = sql("""
    select v.text, v.version from documents d
    join versions v on v.tenant = d.tenant and v.document_id = d.id
    where d.tenant = :tenant and d.id = :document_id and d.state <> 'deleted'
    and v.version = coalesce(:version, d.version)""")

_REPLACED_TEXTS = sql("""
    select tenant, document_id, version from versions
    where replaced_at < {now} - :age
    limit 1000""")

_FORGET_TEXT = sql("""
    delete from versions
    where tenant = :tenant and document_id = :document_id and version = :version""")

# A space's last removal says how far a replica is.
_FORGET_REMOVALS = sql("""
    delete from removals
    where at < {now} - :age and seq < (
        select max(seq) from removals last
        where last.tenant = removals.tenant and last.collection = removals.collection
        and last.generation = removals.generation)""")

_SPACE = sql("""
    select c.tenant, c.name, c.generation from documents d
    join collections c on c.tenant = d.tenant and c.name = d.collection
    where d.tenant = :tenant and d.id = :document_id""")

_ANY_HIDDEN = sql("""
    select 1 from documents
    where tenant = :tenant and state = 'deleted' and id in {list:ids}
    limit 1""")

_QUOTE = sql("""
    insert into quotes (tenant, document_id, job_id) values (:tenant, :document_id, :job_id)
    on conflict do nothing""")


def document_of(row: Row[Any]) -> Document:
    """Return a row of `_COLUMNS` as a document."""
    return Document(**row._mapping)


def _first(connection: Connection, statement: Any, values: Mapping[str, Any]) -> Document | None:
    row = connection.execute(statement, values).first()
    return document_of(row) if row else None


def get(connection: Connection, tenant: str, document_id: str) -> Document | None:
    """Return the tenant's document, deleted ones left out."""
    return _first(connection, _GET, {"tenant": tenant, "document_id": document_id})


def by_source(connection: Connection, tenant: str, collection: str, source: str) -> Document | None:
    """Return the document that was given under this source."""
    key = {"tenant": tenant, "collection": collection, "source": source}
    return _first(connection, _BY_SOURCE, key)


def listed(
    connection: Connection, tenant: str, *, collection: str | None, after: str, limit: int
) -> list[Document]:
    """Return the tenant's documents in order of id, those behind the id `after`."""
    values = {"tenant": tenant, "after": after, "limit": limit}
    in_collection = ""
    if collection is not None:
        in_collection = "and collection = :collection"
        values["collection"] = collection
    statement = sql(f"""
        select {_COLUMNS} from documents
        where tenant = :tenant and id > :after and state <> 'deleted' {in_collection}
        order by id limit :limit""")
    return [document_of(row) for row in connection.execute(statement, values)]


def counted(connection: Connection, tenant: str) -> dict[str, tuple[int, int]]:
    """Return {language: (documents, chunks)} of what is ready of the tenant."""
    rows = connection.execute(_COUNTED, {"tenant": tenant})
    return {row.language: (row.documents, row.chunks) for row in rows}


def add_upload(
    connection: Connection,
    *,
    tenant: str,
    collection: str,
    source: str,
    media_type: str,
    document_id: str,
    upload_id: str,
    generation: str,
) -> None:
    """Make a file that was stored the document's, which is added if its source is new.

    Raises Conflict when the source is another document by now, or was deleted; Unavailable when
    the file came in so slowly that it was given up.
    """
    values = {
        "tenant": tenant,
        "collection": collection,
        "source": source,
        "media_type": media_type,
        "document_id": document_id,
        "generation": generation,
    }
    present = by_source(connection, tenant, collection, source)
    if present is None:
        was_deleted = connection.execute(_EXISTS, values).first() is not None
        changed = was_deleted
    else:
        changed = present.id != document_id
    if changed:
        raise Conflict(
            f"{source!r} came in, or was deleted, twice at the same moment: send it again"
        )
    if present is None:
        connection.execute(_INSERT, values)
    connection.execute(_INSERT_COLLECTION, values)
    if not uploads.take(connection, tenant, upload_id, document_id):
        raise Unavailable(f"{source!r} took too long to come in: send it again")


def generation(connection: Connection, tenant: str, collection: str) -> str | None:
    """Return the active generation of a collection."""
    key = {"tenant": tenant, "collection": collection}
    active: str | None = connection.scalar(_GENERATION, key)
    return active


def refuse(
    connection: Connection, tenant: str, document_id: str, message: str, upload_id: str
) -> None:
    """Say why a document could not be read, and drop the bytes; an older version of it stays."""
    key = {"tenant": tenant, "document_id": document_id}
    connection.execute(_REFUSE, key | {"error": message})
    uploads.drop(connection, tenant, upload_id)


def add_version(
    connection: Connection,
    document: Document,
    reading: Reading,
    *,
    blocks: str,
    upload_id: str,
    sha256: str,
    media_type: str,
) -> None:
    """Make a text the next version of a document and drop its older uploads.

    `blocks`: those of the reading as JSON. Raises Unavailable when the document was changed or
    deleted meanwhile.
    """
    values = {
        "tenant": document.tenant,
        "document_id": document.id,
        "version": document.version,
        "title": reading.title,
        "sha256": sha256,
        "language": reading.language,
        "chunks": len(reading.rows),
        "media_type": media_type,
        "text": reading.text,
        "pages": reading.pages,
        "blocks": blocks,
    }
    if not connection.execute(_SWITCH, values).rowcount:
        raise Unavailable(
            f"{document.source!r} was changed or deleted while it was read: it is read again"
        )
    connection.execute(_REPLACE, values)
    connection.execute(_INSERT_VERSION, values)
    uploads.drop_older(connection, document.tenant, document.id, upload_id)


def text_of(
    connection: Connection, tenant: str, document_id: str, version: int | None
) -> tuple[str, int] | None:
    """Return (canonical text, version), of the current version when none is named.

    A deleted document has none.
    """
    key = {"tenant": tenant, "document_id": document_id, "version": version}
    row = connection.execute(_TEXT, key).first()
    return (row.text, row.version) if row else None


def forget_replaced(connection: Connection, age: float) -> None:
    """Drop texts that were replaced, and removals of vectors, more than `age` seconds ago.

    At most 1,000 texts.
    """
    replaced = connection.execute(_REPLACED_TEXTS, {"age": age}).mappings().all()
    if replaced:
        connection.execute(_FORGET_TEXT, [dict(row) for row in replaced])
    connection.execute(_FORGET_REMOVALS, {"age": age})


def space_of(connection: Connection, tenant: str, document_id: str) -> Space | None:
    """Return where a document is, also a deleted one."""
    row = connection.execute(_SPACE, {"tenant": tenant, "document_id": document_id}).first()
    if row is None:
        return None
    return Space(tenant=row.tenant, collection=row.name, generation=row.generation)


def any_hidden(connection: Connection, tenant: str, document_ids: Sequence[str]) -> bool:
    """Say whether one of these documents was deleted."""
    values = {"tenant": tenant, "ids": as_list(document_ids)}
    return connection.execute(_ANY_HIDDEN, values).first() is not None


def note_quotes(
    connection: Connection, tenant: str, job_id: str, document_ids: Sequence[str]
) -> bool:
    """Remember that a job is shown passages of these documents.

    Returns False when one of them was deleted: then it must not be.
    """
    shown = sorted(set(document_ids))
    if any_hidden(connection, tenant, shown):
        return False
    if shown:
        quotes = [
            {"tenant": tenant, "document_id": document_id, "job_id": job_id}
            for document_id in shown
        ]
        connection.execute(_QUOTE, quotes)
    return True

"""Deleted documents: hidden at once, then erased with all that quotes them, then receipted."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from ragqueue.errors import Conflict, NotFound
from ragqueue.records.statements import from_json, sql, to_json

_HIDE = sql("""
    update documents set state = 'deleted', hidden_at = {now}, erasure = :erasure
    where tenant = :tenant and id = :document_id and state <> 'deleted'""")

_UNERASED = sql("""
    select d.tenant, d.id from documents d
    left join jobs j on j.id = d.erasure
    where d.state = 'deleted' and d.erased_at is null and d.cleared_at is null
    and (j.id is null or (j.state not in ('queued', 'running') and j.ended_at < {now} - :pause))
    limit 100""")

_TAKE_ERASURE = sql("""
    update documents set erasure = :erasure
    where tenant = :tenant and id = :document_id and state = 'deleted' and erased_at is null
    and not exists (
        select 1 from jobs j
        where j.id = documents.erasure and j.state in ('queued', 'running'))""")

_RECEIPT = sql("""
    select hidden_at, erased_at, counts from documents
    where tenant = :tenant and id = :document_id and state = 'deleted'""")

# What reads the document, and what was shown passages of it, while it lives.
_TOUCHING = sql("""
    select tenant, id, cancel_requested from jobs
    where state in ('queued', 'running') and id in (
        select id from jobs
        where tenant = :tenant and document_id = :document_id and kind = 'ingest'
        union all
        select job_id from quotes where tenant = :tenant and document_id = :document_id)""")

_QUOTING = sql("""
    select j.id, j.attempt from quotes q
    join jobs j on j.id = q.job_id
    where q.tenant = :tenant and q.document_id = :document_id
    and j.attempt > 0 and not j.log_dropped""")

_ERASE_VERSIONS = sql("""
    delete from versions where tenant = :tenant and document_id = :document_id""")

_ERASE_UPLOADS = sql("""
    delete from uploads where tenant = :tenant and document_id = :document_id""")

_ERASE_ANSWERS = sql("""
    delete from answers where tenant = :tenant and job_id in (
        select j.id from quotes q
        join jobs j on j.id = q.job_id
        where q.tenant = :tenant and q.document_id = :document_id
        and j.state in ('succeeded', 'failed', 'cancelled'))""")

_FORGET_NAME = sql("""
    update documents set source = '', title = '', sha256 = '', error = null
    where tenant = :tenant and id = :document_id""")

_INGESTS = sql("""
    select id, payload, error_message from jobs
    where tenant = :tenant and document_id = :document_id and kind = 'ingest'""")

_FORGET_IN_INGEST = sql("""
    update jobs set payload = :payload, error_message = :error_message where id = :id""")

_NOTE_CLEARED = sql("""
    update documents set cleared_at = {now}, counts = :counts
    where tenant = :tenant and id = :document_id and cleared_at is null""")

_DROP_QUOTES = sql("""
    delete from quotes where tenant = :tenant and document_id = :document_id""")

_CLEARED = sql("""
    select tenant, id from documents
    where state = 'deleted' and erased_at is null and cleared_at is not null""")

_NOTE_ERASED = sql("""
    update documents set erased_at = {now}
    where tenant = :tenant and id = :document_id and erased_at is null""")

_PRIVATE = {"source": "", "sha256": ""}  # of an ingest's payload: what tells of the document itself


class Receipt(NamedTuple):
    """When a document was hidden and erased, and what the erasure removed."""

    hidden_at: float
    erased_at: float | None
    counts: Mapping[str, int]


def hide(connection: Connection, erasure: str, *, tenant: str, document_id: str) -> None:
    """Delete a document from the sight of every process. Raises NotFound.

    `erasure` is the job that will erase it.
    """
    values = {"erasure": erasure, "tenant": tenant, "document_id": document_id}
    if not connection.execute(_HIDE, values).rowcount:
        raise NotFound(f"there is no document {document_id!r}")


def unerased(connection: Connection, pause: float) -> list[tuple[str, str]]:
    """Return (tenant, id) of hidden documents that no job erases, nor did in the last `pause` s."""
    rows = connection.execute(_UNERASED, {"pause": pause})
    return [(row.tenant, row.id) for row in rows]


def take_erasure(connection: Connection, erasure: str, *, tenant: str, document_id: str) -> None:
    """Make a job the one that erases a hidden document.

    Raises Conflict when another one does, or has done so.
    """
    values = {"erasure": erasure, "tenant": tenant, "document_id": document_id}
    if not connection.execute(_TAKE_ERASURE, values).rowcount:
        raise Conflict(f"document {document_id!r} is being erased, or has been")


def receipt(connection: Connection, tenant: str, document_id: str) -> Receipt | None:
    """Return the receipt of a deleted document."""
    row = connection.execute(_RECEIPT, {"tenant": tenant, "document_id": document_id}).first()
    if row is None:
        return None
    return Receipt(row.hidden_at, row.erased_at, from_json(row.counts) or {})


def touching(connection: Connection, tenant: str, document_id: str) -> list[tuple[str, str, bool]]:
    """Return (tenant, job id, cancel requested) of the living jobs that read or show a document."""
    rows = connection.execute(_TOUCHING, {"tenant": tenant, "document_id": document_id})
    return [(row.tenant, row.id, bool(row.cancel_requested)) for row in rows]


def quoting(connection: Connection, tenant: str, document_id: str) -> list[tuple[str, int]]:
    """Return (job id, attempt) of the jobs that were shown passages and may have a log."""
    rows = connection.execute(_QUOTING, {"tenant": tenant, "document_id": document_id})
    return [(row.id, row.attempt) for row in rows]


def erase(connection: Connection, tenant: str, document_id: str) -> dict[str, int]:
    """Erase a deleted document's texts, bytes and name, and the answers that quote it.

    Returns how many versions, files, answers and jobs were emptied.
    """
    key = {"tenant": tenant, "document_id": document_id}
    connection.execute(_FORGET_NAME, key)
    return {
        "versions": connection.execute(_ERASE_VERSIONS, key).rowcount,
        "files": connection.execute(_ERASE_UPLOADS, key).rowcount,
        "answers": connection.execute(_ERASE_ANSWERS, key).rowcount,
        "jobs": _forget_in_ingests(connection, key),
    }


def _forget_in_ingests(connection: Connection, key: Mapping[str, Any]) -> int:
    """Take the name and hash of a document out of the jobs that read it; return how many."""
    rows = connection.execute(_INGESTS, key).all()
    for row in rows:
        payload = from_json(row.payload) | _PRIVATE
        message = None if row.error_message is None else "the document was deleted"
        values = {"id": row.id, "payload": to_json(payload), "error_message": message}
        connection.execute(_FORGET_IN_INGEST, values)
    return len(rows)


def note_cleared(
    connection: Connection, tenant: str, document_id: str, counts: Mapping[str, int]
) -> None:
    """Note that the rows of a hidden document are gone, and what went."""
    key = {"tenant": tenant, "document_id": document_id}
    connection.execute(_NOTE_CLEARED, key | {"counts": to_json(counts)})
    connection.execute(_DROP_QUOTES, key)


def cleared(connection: Connection) -> list[tuple[str, str]]:
    """Return (tenant, id) of documents whose rows are gone, but maybe not every copy of them."""
    return [(row.tenant, row.id) for row in connection.execute(_CLEARED)]


def note_erased(connection: Connection, document_ids: Sequence[tuple[str, str]]) -> None:
    """Complete the receipts of these documents, given as (tenant, id)."""
    for tenant, document_id in document_ids:
        connection.execute(_NOTE_ERASED, {"tenant": tenant, "document_id": document_id})

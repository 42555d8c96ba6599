"""Which chunks of a document are shown: those of its current reading.

Each time that a file is read is a reading, with a number of its own. One that is being stored, and
one that was replaced, has a row here, so that its chunks are found and removed.
"""

from sqlalchemy import Connection

from ragqueue.records.chunks import count_out, hold
from ragqueue.records.statements import sql

_BEGIN = sql("""
    insert into readings (tenant, document_id, reading, replaced)
    values (:tenant, :document_id, :reading, false)""")

_IS_BEGUN = sql("""
    select 1 from readings
    where tenant = :tenant and document_id = :document_id and reading = :reading""")

_COUNT = sql("""
    select count(*) from chunks
    where tenant = :tenant and document_id = :document_id and reading = :reading""")

_REPLACE = sql("""
    insert into readings (tenant, document_id, reading, replaced)
    select tenant, id, reading, true from documents
    where tenant = :tenant and id = :document_id and version > 0""")

_SHOW = sql("""
    update documents set reading = :reading where tenant = :tenant and id = :document_id""")

_BEGUN_NO_MORE = sql("""
    delete from readings
    where tenant = :tenant and document_id = :document_id and reading = :reading""")

# What is replaced is asked for here, in the transaction: another run may have switched just now.
_STALE_ONES = """
    from readings
    where tenant = :tenant and document_id = :document_id
        and (replaced or not exists (
            select 1 from jobs
            where tenant = :tenant and document_id = :document_id and kind = 'ingest'
                and state in ('queued', 'running') and id <> :job_id))"""

# "+ 0": of its own, a planner may walk all chunks in their order to find some of one document.
_STALE = f"""
    select number from chunks
    where tenant = :tenant and document_id = :document_id
        and reading in (select reading {_STALE_ONES})
    order by number + 0
    limit :limit"""

_NOTE_STALE_REMOVALS = sql(f"""
    insert into removals (tenant, collection, generation, number, at)
    select tenant, collection, generation, number, {{now}} from chunks
    where number in ({_STALE}) and vector is not null
    order by number""")

_REMOVE_STALE = sql(f"""
    delete from chunks where number in ({_STALE})
    returning number, collection, generation, language, tokens""")

_FORGET_STALE = sql(f"delete {_STALE_ONES}")

_FORGET = sql("""
    delete from readings where tenant = :tenant and document_id = :document_id""")

_ABANDONED = sql("""
    select distinct tenant, document_id from readings
    where not exists (
        select 1 from jobs j
        where j.tenant = readings.tenant and j.document_id = readings.document_id
            and j.kind = 'ingest' and j.state in ('queued', 'running'))
    limit 100""")


def begin(connection: Connection, tenant: str, document_id: str, reading: int) -> None:
    """Note that chunks of a reading will come: what breaks off is found by it, and removed."""
    values = {"tenant": tenant, "document_id": document_id, "reading": reading}
    connection.execute(_BEGIN, values)


def is_begun(connection: Connection, tenant: str, document_id: str, reading: int) -> bool:
    """Say whether chunks of a reading may come: neither its document nor its begin was removed."""
    values = {"tenant": tenant, "document_id": document_id, "reading": reading}
    return connection.execute(_IS_BEGUN, values).first() is not None


def show(connection: Connection, tenant: str, document_id: str, reading: int) -> int:
    """Make a reading the one that is shown of a document; return how many chunks it has."""
    values = {"tenant": tenant, "document_id": document_id, "reading": reading}
    connection.execute(_REPLACE, values)
    connection.execute(_SHOW, values)
    connection.execute(_BEGUN_NO_MORE, values)
    count: int = connection.execute(_COUNT, values).scalar_one()
    return count


def remove_stale(
    connection: Connection, tenant: str, document_id: str, job_id: str, limit: int
) -> list[int]:
    """Delete at most `limit` chunks that are not of the document's current reading.

    Those of a reading that is being stored stay while a job other than `job_id` may be at it.
    """
    values = {"tenant": tenant, "document_id": document_id, "job_id": job_id, "limit": limit}
    hold(connection, tenant)
    connection.execute(_NOTE_STALE_REMOVALS, values)
    removed = connection.execute(_REMOVE_STALE, values).all()
    if not removed:
        connection.execute(_FORGET_STALE, values)
    return count_out(connection, tenant, removed)


def abandoned(connection: Connection) -> set[tuple[str, str]]:
    """Return (tenant, document id) of readings that are not shown and that no job works on."""
    rows = connection.execute(_ABANDONED)
    return {(row.tenant, row.document_id) for row in rows}


def forget(connection: Connection, tenant: str, document_id: str) -> None:
    """Forget the readings of a document whose chunks are all removed."""
    connection.execute(_FORGET, {"tenant": tenant, "document_id": document_id})

"""The bytes of files as they came in, in parts, so that no other write waits for a large one."""

from sqlalchemy import Connection

from ragqueue.records.statements import sql

_BEGIN = sql("""
    insert into uploads (tenant, id, document_id, created_at)
    values (:tenant, :upload_id, '', {now})""")

_ADD_PART = sql("""
    insert into upload_parts (tenant, upload_id, n, data)
    select tenant, id, :n, :data from uploads where tenant = :tenant and id = :upload_id""")

# Its time is that of its being taken: of two files of one document the later one stands.
_TAKE = sql("""
    update uploads set document_id = :document_id, created_at = {now}
    where tenant = :tenant and id = :upload_id""")

_PART = sql("""
    select data from upload_parts
    where tenant = :tenant and upload_id = :upload_id and n = :n""")

# Parts go with their upload, by a trigger.
_DROP = sql("delete from uploads where tenant = :tenant and id = :upload_id")

_DROP_UNTAKEN = sql("""
    delete from uploads where tenant = :tenant and id = :upload_id and document_id = ''""")

# What came later has an ingest of its own.
_DROP_OLDER = sql("""
    delete from uploads
    where tenant = :tenant and document_id = :document_id and created_at < (
        select created_at from uploads where tenant = :tenant and id = :upload_id)""")

_FORGET_UNTAKEN = sql("""
    delete from uploads where document_id = '' and created_at < {now} - :age""")


def begin(connection: Connection, tenant: str, upload_id: str, data: bytes) -> None:
    """Store the first part of a file that is no document's yet."""
    connection.execute(_BEGIN, {"tenant": tenant, "upload_id": upload_id})
    add_part(connection, tenant, upload_id, 0, data)


def add_part(connection: Connection, tenant: str, upload_id: str, n: int, data: bytes) -> bool:
    """Store the n-th part of a file; return whether its upload is still known."""
    values = {"tenant": tenant, "upload_id": upload_id, "n": n, "data": data}
    return bool(connection.execute(_ADD_PART, values).rowcount)


def take(connection: Connection, tenant: str, upload_id: str, document_id: str) -> bool:
    """Make a file that is stored whole the document's; return whether it is still known."""
    values = {"tenant": tenant, "upload_id": upload_id, "document_id": document_id}
    return bool(connection.execute(_TAKE, values).rowcount)


def part(connection: Connection, tenant: str, upload_id: str, n: int) -> bytes | None:
    """Return the n-th part of a file, None behind the last."""
    values = {"tenant": tenant, "upload_id": upload_id, "n": n}
    data: bytes | None = connection.scalar(_PART, values)
    return data


def drop(connection: Connection, tenant: str, upload_id: str) -> None:
    """Remove a file."""
    connection.execute(_DROP, {"tenant": tenant, "upload_id": upload_id})


def drop_untaken(connection: Connection, tenant: str, upload_id: str) -> None:
    """Remove a file unless it is a document's by now."""
    connection.execute(_DROP_UNTAKEN, {"tenant": tenant, "upload_id": upload_id})


def drop_older(connection: Connection, tenant: str, document_id: str, upload_id: str) -> None:
    """Remove the files of a document that came before this one."""
    values = {"tenant": tenant, "document_id": document_id, "upload_id": upload_id}
    connection.execute(_DROP_OLDER, values)


def forget_untaken(connection: Connection, age: float) -> None:
    """Remove files that began to come in more than `age` seconds ago and are no document's."""
    connection.execute(_FORGET_UNTAKEN, {"age": age})

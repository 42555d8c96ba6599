"""API keys: shown once, stored as hashes, each of one tenant."""

import hashlib
import hmac
import secrets
from typing import Any

from sqlalchemy import Connection

from ragqueue.records.statements import sql
from ragqueue.storable import check_storable

MARK = "rq"  # what every key begins with

_INSERT = sql("""
    insert into api_keys (tenant, id, hash, name, created_at)
    values (:tenant, :id, :hash, :name, {now})""")

_VALID = sql("select tenant, id, hash from api_keys where id = :id and revoked_at is null")

_ANY_MADE = sql("select 1 from api_keys limit 1")

_ANY_VALID = sql("select 1 from api_keys where revoked_at is null limit 1")

_REVOKED = sql("select id from api_keys where revoked_at is not null")

_LISTED = sql("""
    select tenant, id, name, created_at, revoked_at from api_keys order by created_at""")

_REVOKE = sql("update api_keys set revoked_at = {now} where id = :id and revoked_at is null")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def create(connection: Connection, tenant: str, name: str) -> str:
    """Make a key for a tenant and return it; it cannot be shown again. Raises InvalidRequest."""
    check_storable("the key's name", name)
    check_storable("tenant", tenant)
    key_id = secrets.token_hex(6)
    secret = secrets.token_urlsafe(32)
    values = {"tenant": tenant, "id": key_id, "hash": _hash(secret), "name": name}
    connection.execute(_INSERT, values)
    return f"{MARK}_{key_id}_{secret}"


def verify(connection: Connection, key: str) -> tuple[str, str] | None:
    """Return (tenant, key id) of a valid key.

    A wrong secret takes as long as a right one.
    """
    mark, _, rest = key.partition("_")
    key_id, _, secret = rest.partition("_")
    row = connection.execute(_VALID, {"id": key_id}).first()
    expected = row.hash if row else _hash("")
    matches = hmac.compare_digest(expected, _hash(secret))
    if row is None or not matches or not secret or mark != MARK:
        return None
    return row.tenant, row.id


def any_made(connection: Connection) -> bool:
    """Say whether there has ever been a key."""
    return connection.execute(_ANY_MADE).first() is not None


def any_valid(connection: Connection) -> bool:
    """Say whether anybody has a valid key."""
    return connection.execute(_ANY_VALID).first() is not None


def revoked_ids(connection: Connection) -> frozenset[str]:
    """Return the ids of all keys that were revoked."""
    return frozenset(connection.scalars(_REVOKED))


def listed(connection: Connection) -> list[dict[str, Any]]:
    """Return every key: all columns but the hash of its secret."""
    return [dict(row) for row in connection.execute(_LISTED).mappings()]


def revoke(connection: Connection, key_id: str) -> bool:
    """End a key's validity; False when there is no such valid key."""
    return bool(connection.execute(_REVOKE, {"id": key_id}).rowcount)

"""API keys: shown once, stored as hashes, each of one tenant."""

import hashlib
import hmac
import secrets
from typing import Any

from sqlalchemy import Connection, insert, select, update

from ragqueue.records.schema import api_keys
from ragqueue.records.store import NOW
from ragqueue.storable import check_storable

_VALID = api_keys.c.revoked_at.is_(None)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def create(connection: Connection, tenant: str, name: str) -> str:
    """Make a key for a tenant and return it; it cannot be shown again."""
    check_storable("the key's name", name)
    check_storable("tenant", tenant)
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    connection.execute(
        insert(api_keys).values(
            tenant=tenant, id=key_id, hash=_hash(secret), name=name, created_at=NOW
        )
    )
    return f"rq_{key_id}_{secret}"


def verify(connection: Connection, key: str) -> tuple[str, str] | None:
    """Return (tenant, key id) of a valid key."""
    mark, key_id, secret = [*key.split("_", 2), "", ""][:3]
    row = connection.execute(select(api_keys).where(api_keys.c.id == key_id, _VALID)).first()
    same = hmac.compare_digest(row.hash if row else _hash(""), _hash(secret))
    return (row.tenant, row.id) if same and row and secret and mark == "rq" else None


def any_made(connection: Connection) -> bool:
    """Say whether there has ever been a key."""
    return connection.execute(select(api_keys.c.id).limit(1)).first() is not None


def revoked_ids(connection: Connection) -> frozenset[str]:
    """Return the ids of all keys that were revoked."""
    return frozenset(connection.scalars(select(api_keys.c.id).where(~_VALID)))


def any_valid(connection: Connection) -> bool:
    """Say whether anybody has a valid key."""
    return connection.execute(select(api_keys.c.id).where(_VALID).limit(1)).first() is not None


def listed(connection: Connection) -> list[dict[str, Any]]:
    """Return every key: all columns but the hash of its secret."""
    query = select(*(column for column in api_keys.c if column is not api_keys.c.hash)).order_by(
        api_keys.c.created_at
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def revoke(connection: Connection, key_id: str) -> bool:
    """End a key's validity; False when there is no such valid key."""
    return bool(
        connection.execute(
            update(api_keys).where(api_keys.c.id == key_id, _VALID).values(revoked_at=NOW)
        ).rowcount
    )

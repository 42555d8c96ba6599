"""API keys: shown once, stored as hashes, each of one tenant."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, select, update

from ragqueue.records.schema import api_keys
from ragqueue.records.store import now

_MARK = "rq"


@dataclass(frozen=True, slots=True)
class KeyRow:
    """What is known of a key besides its secret."""

    tenant: str
    id: str
    name: str
    created_at: float
    revoked_at: float | None


def create(connection: Connection, tenant: str, name: str) -> str:
    """Make a key for a tenant and return it; it cannot be shown again."""
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    row = {"tenant": tenant, "id": key_id, "hash": _hash(secret), "name": name, "created_at": now()}
    connection.execute(api_keys.insert().values(row))
    return f"{_MARK}_{key_id}_{secret}"


def verify(connection: Connection, key: str) -> tuple[str, str] | None:
    """Return (tenant, key id) of a valid key."""
    mark, _, rest = key.partition("_")
    key_id, _, secret = rest.partition("_")
    row = connection.execute(select(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))).first()
    expected = row.hash if row else _hash("")
    if not hmac.compare_digest(expected, _hash(secret)) or row is None or mark != _MARK or not secret:
        return None
    return row.tenant, row.id


def any_valid(connection: Connection) -> bool:
    """Say whether keys are in use at all."""
    return connection.execute(select(api_keys.c.id).where(api_keys.c.revoked_at.is_(None)).limit(1)).first() is not None


def listed(connection: Connection) -> list[KeyRow]:
    """Return every key."""
    columns = (api_keys.c[name] for name in KeyRow.__dataclass_fields__)
    return [KeyRow(*row) for row in connection.execute(select(*columns).order_by(api_keys.c.created_at))]


def revoke(connection: Connection, key_id: str) -> bool:
    """End a key's validity; False when there is no such valid key."""
    mine = update(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
    return bool(connection.execute(mine.values(revoked_at=now())).rowcount)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()

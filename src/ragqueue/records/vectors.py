"""The vectors that stand beside their chunks: what replicas are filled and kept up to date from."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, and_, func, select

from ragqueue.records.schema import chunks, removals
from ragqueue.records.store import Records


class Added(NamedTuple):
    """Vectors of chunks in order of their numbers, shape (len(numbers), dimensions)."""

    numbers: NDArray[np.int64]
    vectors: NDArray[np.float16]


def added(connection: Connection, tenant: str, collection: str, generation: str, after: int, limit: int) -> Added:
    """Return the vectors of the next chunks after a number."""
    here = and_(chunks.c.tenant == tenant, chunks.c.collection == collection, chunks.c.generation == generation)
    query = select(chunks.c.number, chunks.c.vector).where(here, chunks.c.number > after, chunks.c.vector.is_not(None))
    rows = connection.execute(query.order_by(chunks.c.number).limit(limit)).all()
    if not rows:
        return Added(np.empty(0, np.int64), np.empty((0, 0), np.float16))
    vectors = np.frombuffer(b"".join(row.vector for row in rows), "<f2").reshape(len(rows), -1)
    return Added(np.array([row.number for row in rows], np.int64), vectors)


def removed(connection: Connection, tenant: str, collection: str, generation: str, after: int) -> list[tuple[int, int]]:
    """Return (seq, chunk number) of the removals after a seq, in order."""
    here = and_(removals.c.tenant == tenant, removals.c.collection == collection, removals.c.generation == generation)
    query = select(removals.c.seq, removals.c.number).where(here, removals.c.seq > after).order_by(removals.c.seq)
    return [(row.seq, row.number) for row in connection.execute(query)]


def living(connection: Connection, tenant: str, collection: str, generation: str) -> NDArray[np.int64]:
    """Return the numbers of all chunks that have a vector, rising."""
    here = and_(chunks.c.tenant == tenant, chunks.c.collection == collection, chunks.c.generation == generation)
    query = select(chunks.c.number).where(here, chunks.c.vector.is_not(None)).order_by(chunks.c.number)
    return np.fromiter(connection.execute(query).scalars(), np.int64)


def last_removal(connection: Connection, tenant: str, collection: str, generation: str) -> int:
    """Return the seq of the newest removal, 0 when there is none."""
    here = and_(removals.c.tenant == tenant, removals.c.collection == collection, removals.c.generation == generation)
    return int(connection.execute(select(func.coalesce(func.max(removals.c.seq), 0)).where(here)).scalar_one())


class RecordsFeed:
    """Feeds replicas from the records of this process."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def added(self, tenant: str, collection: str, generation: str, after: int, limit: int) -> Added:
        """Return the vectors of the next chunks after a number. Raises Unavailable."""
        return await self._records.read(added, tenant, collection, generation, after, limit)

    async def removed(self, tenant: str, collection: str, generation: str, after: int) -> list[tuple[int, int]]:
        """Return (seq, chunk number) of the removals after a seq. Raises Unavailable."""
        return await self._records.read(removed, tenant, collection, generation, after)

    async def last_removal(self, tenant: str, collection: str, generation: str) -> int:
        """Return the seq of the newest removal. Raises Unavailable."""
        return await self._records.read(last_removal, tenant, collection, generation)

    async def living(self, tenant: str, collection: str, generation: str) -> NDArray[np.int64]:
        """Return the numbers of all chunks that have a vector. Raises Unavailable."""
        return await self._records.read(living, tenant, collection, generation)

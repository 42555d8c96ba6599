"""The vectors that stand beside their chunks: what replicas are filled and kept up to date from."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from ragqueue.records.store import Records

_HERE = "where tenant = ? and collection = ? and generation = ?"
_ADDED = f"select number, vector from chunks {_HERE} and number > ? and vector is not null order by number limit ?"
_REMOVED = f"select seq, number from removals {_HERE} and seq > ? order by seq"
_LIVING = f"select number from chunks {_HERE} and vector is not null order by number"
_LAST_REMOVAL = f"select coalesce(max(seq), 0) from removals {_HERE}"


class News(NamedTuple):
    """What changed in a space. A number's vector never changes, and numbers become visible in rising order."""

    numbers: NDArray[np.int64]  # of new chunks, rising
    vectors: NDArray[np.float16]  # of these, shape (len(numbers), dimensions)
    gone: NDArray[np.int64]  # numbers of removed chunks
    removal: int  # seq of the last removal


class RecordsFeed:
    """Feeds replicas from the records of this process; a space is (tenant, collection, generation)."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def news(self, space: Sequence[str], after: int, removal: int, limit: int) -> News:
        """Return at most `limit` chunks after a number, and all that was removed after a seq. Raises Unavailable."""

        def look(connection: Connection) -> News:
            rows = connection.exec_driver_sql(_ADDED, (*space, after, limit)).all()
            removed = connection.exec_driver_sql(_REMOVED, (*space, removal)).all()
            halves = np.frombuffer(b"".join(row.vector for row in rows), "<f2")
            numbers, gone = (np.array([row.number for row in found], np.int64) for found in (rows, removed))
            return News(numbers, halves.reshape(len(rows), -1 if rows else 0), gone, removed[-1].seq if removed else removal)

        return await self._records.read(look)

    async def living(self, space: Sequence[str]) -> tuple[NDArray[np.int64], int]:
        """Return the numbers of all chunks that have a vector, rising, and the seq of the last removal. Raises Unavailable."""

        def look(connection: Connection) -> tuple[NDArray[np.int64], int]:
            numbers = np.fromiter(connection.exec_driver_sql(_LIVING, tuple(space)).scalars(), np.int64)
            return numbers, connection.exec_driver_sql(_LAST_REMOVAL, tuple(space)).scalar_one()

        return await self._records.read(look)

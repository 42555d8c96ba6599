"""FAISS as each host's replica of the vectors in the records.

A replica is a snapshot on the disk, and in memory what came or went since.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragqueue.adapters import Given
from ragqueue.indexes import faiss_snapshot as snapshots
from ragqueue.indexes.base import Index, Vectors
from ragqueue.indexes.faiss_view import View, load_faiss
from ragqueue.records import chunks
from ragqueue.records.store import Records
from ragqueue.types import Space

# Seconds between looks at the records: a new chunk is found everywhere within a second.
LOOK_EVERY = 0.2
# Vectors fed at once: 500,000 in one read stop every other thread for 0.4 s.
BATCH = 20_000
# Seconds between two tries: one that failed must not be repeated at every search.
COMPACT_EVERY = 60.0
# Seconds without a search after which a space leaves the memory when another one comes.
IDLE = 3600.0
PROBES = 8  # newest vectors of a snapshot that are compared with the records
# Vectors outside the snapshot, or gone, that do no harm; a tenth of it when that is more.
LOOSE_LEAST = 2_000

logger = logging.getLogger(__name__)


class Replica:
    """A space in this process."""

    def __init__(self) -> None:
        self.view: View | None = None  # None until the first search
        self.looked_at = 0.0
        self.compact_after = 0.0
        self.changing = asyncio.Lock()
        self.compacting: asyncio.Task[None] | None = None


class FaissIndex(Index):
    """Searches a host's replicas.

    What is upserted or deleted stands in the records already: the next search looks at them.
    """

    def __init__(self, folder: Path, records: Records) -> None:
        self._folder = Path(folder)
        self._records = records
        self._replicas: dict[Space, Replica] = {}
        self._changed: set[Space] = set()  # that the next search looks for in the records

    async def upsert(self, space: Space, numbers: Sequence[int], vectors: Vectors) -> None:
        self._changed.add(space)

    async def delete(self, space: Space, numbers: Sequence[int]) -> None:
        self._changed.add(space)

    async def count(self, space: Space) -> int:
        view = await self._current(space)
        return view.size

    async def search(
        self, space: Space, vector: Vectors, limit: int, *, allowed: Collection[int] | None = None
    ) -> list[tuple[int, float]]:
        view = await self._current(space)
        return await asyncio.to_thread(view.search, np.asarray(vector, np.float32), limit, allowed)

    async def warm(self) -> None:
        await asyncio.to_thread(load_faiss)

    async def compact(self, space: Space) -> None:
        """Write a new snapshot from the records and delete the old.

        Removed vectors leave the disk. Raises StoreFull, Unavailable.
        """
        parts = await self._read_all(space)
        view = await asyncio.to_thread(snapshots.write, self._folder_of(space), parts)
        replica = self._replicas.get(space)
        if replica is not None:
            async with replica.changing:
                replica.view = await self._follow(space, view)

    async def _read_all(self, space: Space) -> list[chunks.News]:
        """Return all vectors of a space, in parts."""
        part = await self._records.read(chunks.news, space, -1, 0, BATCH)
        removal = part.removal
        parts = []
        while len(part.numbers):
            parts.append(part)
            last = int(part.numbers[-1])
            part = await self._records.read(chunks.news, space, last, removal, BATCH)
        return parts

    async def _current(self, space: Space) -> View:
        """Return the space as the records have it, or had it a moment ago."""
        replica = self._replica(space)
        async with replica.changing:
            now = time.monotonic()
            view = replica.view
            if view is None or space in self._changed or now - replica.looked_at >= LOOK_EVERY:
                replica.looked_at = now
                # Before the look: what is written meanwhile asks for another.
                self._changed.discard(space)
                view = await self._follow(space, view or await self._saved(space))
                replica.view = view
        if view.loose >= max(LOOSE_LEAST, view.base // 10) and now >= replica.compact_after:
            replica.compact_after = now + COMPACT_EVERY
            replica.compacting = asyncio.create_task(self._try_to_compact(space))
        return view

    def _replica(self, space: Space) -> Replica:
        """Return the replica of a space; a new one takes the place of those that are idle."""
        if space not in self._replicas:
            used_since = time.monotonic() - IDLE
            self._replicas = {
                kept: replica
                for kept, replica in self._replicas.items()
                if replica.looked_at > used_since
            }
            self._replicas[space] = Replica()
        return self._replicas[space]

    async def _follow(self, space: Space, view: View) -> View:
        """Return a view with all that has changed in the records since."""
        while True:
            news = await self._records.read(chunks.news, space, view.number, view.removal, BATCH)
            if len(news.numbers) or len(news.gone):
                view = await asyncio.to_thread(view.follow, news)
            if len(news.numbers) < BATCH:
                return view

    async def _saved(self, space: Space) -> View:
        """Return the newest good snapshot.

        One that says something else than the records is deleted.
        """
        living, removal = await self._records.read(chunks.living, space)
        for path in await asyncio.to_thread(snapshots.newest_first, self._folder_of(space)):
            view = await self._load(space, path, living, removal)
            if view is not None:
                return view
            logger.warning(
                "index.snapshot_refused %s: the space is built again from the records", path.name
            )
            await asyncio.to_thread(snapshots.discard, path)
        return View()

    async def _load(
        self, space: Space, path: Path, living: NDArray[np.int64], removal: int
    ) -> View | None:
        """Return what lives of a snapshot; None when it is not what the records say."""
        expected = living[living <= snapshots.last_number(path)]
        if not len(expected):
            return None
        first_probe = int(expected[-PROBES:][0])
        probes = await self._records.read(chunks.news, space, first_probe - 1, removal, PROBES)
        try:
            return await asyncio.to_thread(snapshots.load, path, expected, removal, probes)
        except OSError:  # another process has just deleted it
            return None

    async def _try_to_compact(self, space: Space) -> None:
        try:
            await self.compact(space)
        except Exception as error:  # noqa: BLE001 - the edge of a task: the search goes on without it
            logger.warning("index.compaction_failed: %s", error)

    def _folder_of(self, space: Space) -> Path:
        return self._folder / chunks.scope(space)


def open(given: Given) -> FaissIndex:
    """Return this host's replicas of the vectors in the records."""
    assert given.records is not None
    return FaissIndex(given.folder, given.records)

"""FAISS as each host's replica of the vectors in the records; it can always be thrown away.

A snapshot on the disk, what came since in memory, and bitmaps of what is gone.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ragqueue.indexes import views
from ragqueue.indexes.base import Index, Space
from ragqueue.indexes.views import Vectors, View
from ragqueue.records.vectors import News, RecordsFeed

LOOK_EVERY = 0.2  # seconds between looks at the records: a new chunk is found everywhere within a second
BATCH = 20_000  # vectors fed at once
COMPACT_EVERY = 60.0  # seconds between two tries: one that failed must not be repeated at every search
IDLE = 3600.0  # seconds without a search after which a space leaves the memory
PROBES = 8  # newest vectors of a snapshot that are compared with the records

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Replica:
    """A space in this process."""

    folder: Path
    view: View | None = None  # None until the first search
    looked_at: float = -IDLE
    used_at: float = 0.0
    compacted_at: float = -COMPACT_EVERY
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    compacting: asyncio.Task[None] | None = None


class FaissIndex(Index):
    """Searches the replicas of one host, under its own folder.

    What is upserted or deleted stands in the records already: here it only makes the next search look at them.
    """

    def __init__(self, folder: Path, feed: RecordsFeed) -> None:
        self._folder, self._feed = Path(folder), feed
        self._replicas: dict[Space, Replica] = {}

    async def upsert(self, space: Space, numbers: Sequence[int], vectors: Vectors) -> None:
        await self._look_again(space)

    async def delete(self, space: Space, numbers: Sequence[int]) -> None:
        await self._look_again(space)

    async def count(self, space: Space) -> int:
        return (await self._current(space)).size

    async def search(self, space: Space, vector: Vectors, limit: int, *, allowed: Collection[int] | None = None) -> list[tuple[int, float]]:
        view = await self._current(space)
        return await asyncio.to_thread(view.search, np.asarray(vector, np.float32), limit, allowed)

    async def compact(self, space: Space, *, erase: bool = False) -> None:
        """Write a new snapshot from the records; with `erase` no older one is kept, so that removed vectors leave the disk.

        Raises StoreFull, Unavailable.
        """
        replica, (_, removal), after = self._replica(space), await self._feed.living(space), -1
        parts: list[News] = []
        while len((part := await self._feed.news(space, after, removal, BATCH)).numbers):
            parts.append(part)
            after = int(part.numbers[-1])
        view = await asyncio.to_thread(views.build, replica.folder, parts, removal, erase=erase)
        async with replica.changing:
            if replica.view is not None:
                replica.looked_at = time.monotonic()
                replica.view = await self._follow(space, view)

    async def _current(self, space: Space) -> View:
        """Return the space as the records have it, or had it a moment ago."""
        replica = self._replica(space)
        if time.monotonic() - replica.looked_at >= LOOK_EVERY:
            async with replica.changing:
                now = time.monotonic()
                if now - replica.looked_at >= LOOK_EVERY:  # else another search has looked meanwhile
                    replica.view = await self._follow(space, replica.view or await self._load(space, replica.folder))
                    replica.looked_at = now
        assert replica.view is not None
        if replica.view.is_loose and time.monotonic() - replica.compacted_at >= COMPACT_EVERY:
            replica.compacted_at = time.monotonic()
            replica.compacting = asyncio.create_task(self._tighten(space, replica))
        return replica.view

    async def _look_again(self, space: Space) -> None:
        if replica := self._replicas.get(space):
            async with replica.changing:  # a look that is under way may have missed it
                replica.looked_at = -IDLE

    async def _follow(self, space: Space, view: View) -> View:
        while True:
            news = await self._feed.news(space, view.number, view.removal, BATCH)
            if len(news.numbers) or len(news.gone):
                view = await asyncio.to_thread(view.follow, news)
            if len(news.numbers) < BATCH:
                return view

    async def _load(self, space: Space, folder: Path) -> View:
        """Return what the newest good snapshot holds of the space; one that says something else than the records is deleted."""
        living, removal = await self._feed.living(space)
        for path in await asyncio.to_thread(views.snapshots, folder):
            view = await asyncio.to_thread(views.load, path, living, removal)
            if view is not None:
                newest = living[living <= view.number][-PROBES:]
                truth = await self._feed.news(space, int(newest[0]) - 1, removal, len(newest))
                if await asyncio.to_thread(view.agrees, truth):
                    return view
            logger.warning("index.snapshot_refused %s: the space is built again from the records", path.name)
            await asyncio.to_thread(views.discard, path)
        return views.empty(removal)

    async def _tighten(self, space: Space, replica: Replica) -> None:
        """Take the snapshot of another process when that is enough, else write one."""
        try:
            view = await self._follow(space, await self._load(space, replica.folder))
            if view.is_loose:
                await self.compact(space)
                return
            async with replica.changing:
                replica.view = await self._follow(space, view)
        except Exception as error:  # noqa: BLE001 - the edge of a task: the search goes on without it
            logger.warning("index.compaction_failed: %s", error)

    def _replica(self, space: Space) -> Replica:
        now = time.monotonic()
        if space not in self._replicas:
            for idle in [other for other, replica in self._replicas.items() if now - replica.used_at > IDLE]:
                del self._replicas[idle]
            # The names of tenants and collections are theirs: a hash is a file name on every system.
            self._replicas[space] = Replica(self._folder / hashlib.sha256(json.dumps(space).encode()).hexdigest()[:32])
        self._replicas[space].used_at = now
        return self._replicas[space]

"""FAISS as each host's replica of the vectors in the records: a snapshot on the disk, and in memory what came or went since."""

import asyncio
import hashlib
import json
import logging
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ragqueue.indexes import views
from ragqueue.indexes.base import Index, Space
from ragqueue.indexes.views import Vectors, View
from ragqueue.records.vectors import RecordsFeed

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
    looked_at: float = -math.inf
    used_at: float = 0.0
    compacted_at: float = -math.inf
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    compacting: asyncio.Task[None] | None = None


class FaissIndex(Index):
    """Searches a host's replicas. What is upserted or deleted stands in the records already: the next search looks at them."""

    def __init__(self, folder: Path, feed: RecordsFeed) -> None:
        self._folder, self._feed = Path(folder), feed
        self._replicas: dict[Space, Replica] = {}

    async def upsert(self, space: Space, numbers: Sequence[int], vectors: Vectors) -> None:
        self._replica(space).looked_at = -math.inf

    async def delete(self, space: Space, numbers: Sequence[int]) -> None:
        self._replica(space).looked_at = -math.inf

    async def count(self, space: Space) -> int:
        return (await self._current(space)).size

    async def search(self, space: Space, vector: Vectors, limit: int, *, allowed: Collection[int] | None = None) -> list[tuple[int, float]]:
        view = await self._current(space)
        return await asyncio.to_thread(view.search, np.asarray(vector, np.float32), limit, allowed)

    async def compact(self, space: Space) -> None:
        """Write a new snapshot from the records and delete the old: removed vectors leave the disk. Raises StoreFull, Unavailable."""
        replica, parts = self._replica(space), [await self._feed.news(space, -1, 0, BATCH)]
        while len(parts[-1].numbers):
            parts.append(await self._feed.news(space, int(parts[-1].numbers[-1]), parts[0].removal, BATCH))
        view = await asyncio.to_thread(views.build, replica.folder, parts[:-1])
        async with replica.changing:
            if replica.view is not None:
                replica.view = await self._follow(space, view)

    async def _current(self, space: Space) -> View:
        """Return the space as the records have it, or had it a moment ago."""
        replica = self._replica(space)
        async with replica.changing:
            now, view = time.monotonic(), replica.view
            if view is None or now - replica.looked_at >= LOOK_EVERY:
                replica.looked_at = now  # before the look: what is written meanwhile asks for another
                view = replica.view = await (self._follow(space, view) if view else self._load(space, replica.folder))
        if view.is_loose and now - replica.compacted_at >= COMPACT_EVERY:
            replica.compacted_at = now
            replica.compacting = asyncio.create_task(self._tighten(space, replica))
        return view

    async def _follow(self, space: Space, view: View) -> View:
        while True:
            news = await self._feed.news(space, view.number, view.removal, BATCH)
            if len(news.numbers) or len(news.gone):
                view = await asyncio.to_thread(view.follow, news)
            if len(news.numbers) < BATCH:
                return view

    async def _load(self, space: Space, folder: Path) -> View:
        """Return the space from its newest good snapshot; one that says something else than the records is deleted."""
        living, removal = await self._feed.living(space)
        for _, number, path in await asyncio.to_thread(views.snapshots, folder):
            if len(probes := living[living <= number][-PROBES:]):
                truth = await self._feed.news(space, int(probes[0]) - 1, removal, PROBES)
                if view := await asyncio.to_thread(views.load, path, living, removal, truth):
                    return await self._follow(space, view)
            logger.warning("index.snapshot_refused %s: the space is built again from the records", path.name)
            await asyncio.to_thread(views.discard, path)
        return await self._follow(space, views.EMPTY)

    async def _tighten(self, space: Space, replica: Replica) -> None:
        """Take the snapshot of another process when that is enough, else write one."""
        try:
            if (view := await self._load(space, replica.folder)).is_loose:
                return await self.compact(space)
            async with replica.changing:
                replica.view = await self._follow(space, view)
        except Exception as error:  # noqa: BLE001 - the edge of a task: the search goes on without it
            logger.warning("index.compaction_failed: %s", error)

    def _replica(self, space: Space) -> Replica:
        now = time.monotonic()
        if space not in self._replicas:
            self._replicas = {other: replica for other, replica in self._replicas.items() if now - replica.used_at < IDLE}
            # The names of tenants and collections are theirs: a hash is a file name on every system.
            self._replicas[space] = Replica(self._folder / hashlib.sha256(json.dumps(space).encode()).hexdigest()[:32])
        self._replicas[space].used_at = now
        return self._replicas[space]

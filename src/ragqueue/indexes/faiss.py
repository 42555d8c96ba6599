"""FAISS as each host's replica of the vectors in the records; it can always be thrown away.

A snapshot on the disk, what came since in memory, and bitmaps of what is gone.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ragqueue.indexes import segments, snapshots
from ragqueue.indexes.base import Index, Space
from ragqueue.indexes.segments import Numbers, Vectors, View

LOOK_EVERY = 0.2  # seconds between looks at the records: a new chunk is found everywhere within a second
BATCH = 20_000  # vectors fed at once
COMPACT_EVERY = 60.0  # seconds between two tries: one that failed must not be repeated at every search
IDLE = 3600.0  # seconds without a search after which a space leaves the memory
PROBES = 8  # newest vectors of a snapshot that are compared with the records

logger = logging.getLogger(__name__)


class Feed(Protocol):
    """Where the truth is. A number's vector never changes, and numbers become visible in rising order."""

    async def added(self, tenant: str, collection: str, generation: str, after: int, limit: int) -> Any: ...
    async def removed(self, tenant: str, collection: str, generation: str, after: int) -> list[tuple[int, int]]: ...
    async def last_removal(self, tenant: str, collection: str, generation: str) -> int: ...
    async def living(self, tenant: str, collection: str, generation: str) -> Numbers: ...


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

    What is upserted or deleted stands in the records already: here it only shows at once in a space that this process searches.
    """

    def __init__(self, folder: Path, feed: Feed) -> None:
        self._folder, self._feed = Path(folder), feed
        self._replicas: dict[Space, Replica] = {}

    async def upsert(self, space: Space, numbers: Sequence[int], vectors: Vectors) -> None:
        replica = self._replica(space)
        async with replica.changing:
            if replica.view is not None and len(numbers):
                replica.view = await asyncio.to_thread(replica.view.put, np.asarray(numbers, np.int64), np.asarray(vectors))

    async def delete(self, space: Space, numbers: Sequence[int]) -> None:
        replica = self._replica(space)
        async with replica.changing:
            if replica.view is not None:
                replica.view = replica.view.remove(np.asarray(numbers, np.int64))

    async def count(self, space: Space) -> int:
        return (await self._current(space)).size

    async def search(self, space: Space, vector: Vectors, limit: int, *, allowed: Collection[int] | None = None) -> list[tuple[int, float]]:
        view = await self._current(space)
        return await asyncio.to_thread(view.search, np.asarray(vector, np.float32), limit, allowed)

    async def compact(self, space: Space, *, erase: bool = False) -> None:
        """Write a new snapshot from the records; with `erase` no older one is kept, so that removed vectors leave the disk.

        Raises StoreFull, Unavailable.
        """
        replica, removal, after = self._replica(space), await self._feed.last_removal(*_key(space)), -1
        parts = []
        while len((part := await self._feed.added(*_key(space), after, BATCH)).numbers):
            parts.append(part)
            after = int(part.numbers[-1])
        view = await asyncio.to_thread(_save, replica.folder, parts, removal, erase)
        async with replica.changing:
            if replica.view is not None:
                replica.looked_at = time.monotonic()
                replica.view = await self._follow(space, view)

    async def _current(self, space: Space) -> View:
        """Return the space as the records have it, or had it a moment ago."""
        replica = self._replica(space)
        if replica.view is None or time.monotonic() - replica.looked_at >= LOOK_EVERY:
            async with replica.changing:
                now = time.monotonic()
                if replica.view is None or now - replica.looked_at >= LOOK_EVERY:  # else another search has looked meanwhile
                    replica.view = await self._follow(space, replica.view or await self._load(space, replica.folder))
                    replica.looked_at = now
        if replica.view.is_loose and time.monotonic() - replica.compacted_at >= COMPACT_EVERY:
            replica.compacted_at = time.monotonic()
            replica.compacting = asyncio.create_task(self._tighten(space, replica))
        return replica.view

    async def _follow(self, space: Space, view: View) -> View:
        while len((part := await self._feed.added(*_key(space), view.number, BATCH)).numbers):
            view = await asyncio.to_thread(view.follow, part.numbers, part.vectors)
            if len(part.numbers) < BATCH:
                break
        # Read after the chunks, so that none comes back that was removed between the two.
        if gone := await self._feed.removed(*_key(space), view.removal):
            view = replace(view.remove(np.array([number for _, number in gone], np.int64)), removal=gone[-1][0])
        return view

    async def _load(self, space: Space, folder: Path) -> View:
        """Return what the newest good snapshot holds of the space; one that says something else than the records is deleted."""
        removal = await self._feed.last_removal(*_key(space))
        living = await self._feed.living(*_key(space))
        for path in await asyncio.to_thread(snapshots.found, folder):
            view = await asyncio.to_thread(_restore, path, living, removal)
            if view is not None and view.number >= 0:
                newest = living[living <= view.number][-PROBES:]
                truth = await self._feed.added(*_key(space), int(newest[0]) - 1, len(newest))
                if await asyncio.to_thread(_agrees, view, truth):
                    return view
            logger.warning("index.snapshot_refused %s: the space is built again from the records", path.name)
            await asyncio.to_thread(snapshots.discard, path)
        return View(removal=removal)

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
            name = hashlib.sha256(json.dumps(_key(space)).encode()).hexdigest()[:32]
            self._replicas[space] = Replica(self._folder / name)
        self._replicas[space].used_at = now
        return self._replicas[space]


def _key(space: Space) -> tuple[str, str, str]:
    return space.tenant, space.collection, space.generation


def _save(folder: Path, parts: Sequence[Any], removal: int, erase: bool) -> View:
    if not parts:
        snapshots.prune(folder, None, removal, erase=erase)
        return View(removal=removal)
    numbers, halves = np.concatenate([part.numbers for part in parts]), np.concatenate([part.vectors for part in parts])
    segment = segments.build(numbers, halves)
    path = snapshots.save(folder, snapshots.Snapshot(numbers, segments.dump(segment), int(numbers[-1]), removal))
    snapshots.prune(folder, path, removal, erase=erase)
    return View(int(numbers[-1]), removal, len(numbers), (segment,))


def _restore(path: Path, living: Numbers, removal: int) -> View | None:
    """Return what lives of a snapshot, None when it is damaged or lacks what the records held then."""
    found = snapshots.load(path)
    if found is None:
        return None
    segment = segments.restore(found.numbers, found.data, living)
    known = living[living <= found.last_number]
    if len(known) == 0 or len(segment.places(known)) < len(known):
        return None
    return View(int(known[-1]), removal, len(found.numbers), (segment,))


def _agrees(view: View, truth: Any) -> bool:
    """Say whether vectors of the records are the ones of a snapshot.

    They are not when the records were restored from a backup or begun anew: then the same numbers name other chunks.
    """
    for number, half in zip(truth.numbers.tolist(), truth.vectors, strict=True):
        if number <= view.number:
            vector = half.astype(np.float32)
            if view.segments[0].index.d != len(vector):
                return False
            if abs(view.search(vector, 1, [number])[0][1] - float(vector @ vector)) > 1e-3:
                return False
    return True

"""FAISS as each host's replica of the vectors in the records; it can always be thrown away.

An immutable snapshot, a delta that follows the records, and a bitmap of what is gone. Exact fp16 up to 300,000
vectors, inverted lists above; no graphs, which lose a selective filter's hits (recall 0.12).
"""

import asyncio
import hashlib
import json
import os
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ragqueue.indexes import snapshots
from ragqueue.indexes.base import Index, Space

LOOK_EVERY = 0.2  # seconds between looks at the records: a new chunk is found everywhere within a second
BATCH = 20_000  # vectors fed at once
EXACT_UP_TO = 300_000
FEW_ALLOWED = 0.1  # share below which all inverted lists are visited
COMPACT_SHARE = 0.1
COMPACT_LEAST = 2_000  # vectors outside the snapshot that brute force finds as fast

Vectors = NDArray[np.float32]


class Feed(Protocol):
    """Where the truth is."""

    async def added(self, tenant: str, collection: str, generation: str, after: int, limit: int) -> Any: ...
    async def removed(self, tenant: str, collection: str, generation: str, after: int) -> list[tuple[int, int]]: ...
    async def last_removal(self, tenant: str, collection: str, generation: str) -> int: ...


def _faiss() -> Any:
    """Return FAISS, loaded on first use: a fork after that deadlocks, and its own call for one thread covers only its caller."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import faiss

    return faiss


class Replica:
    """The vectors of one space. Searches see one state of it while the next is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.catching_up = asyncio.Lock()
        self.looked_at = 0.0
        self.last_number = self.last_removal = 0
        self._swap = threading.Lock()
        self._index: Any = None
        self._numbers: NDArray[np.int64] = np.empty(0, np.int64)
        self._alive: NDArray[np.bool_] = np.empty(0, np.bool_)
        self._delta: dict[int, Vectors] = {}
        self._stacked: tuple[NDArray[np.int64], Vectors] | None = None

    @property
    def size(self) -> int:
        with self._swap:
            return int(self._alive.sum()) + len(self._delta)

    @property
    def is_loose(self) -> bool:
        """Whether too much of it is outside the snapshot."""
        with self._swap:
            loose = len(self._delta) + int((~self._alive).sum())
            return loose >= COMPACT_LEAST and loose > COMPACT_SHARE * len(self._numbers)

    def restore(self) -> None:
        """Take the newest snapshot on the disk."""
        found = snapshots.load(self.folder)
        if found is not None:
            self.adopt(found, _faiss().deserialize_index(np.frombuffer(found.data, np.uint8)))

    def adopt(self, snapshot: snapshots.Snapshot, index: Any) -> None:
        """Put a snapshot in the place of all that it holds."""
        with self._swap:
            self._index, self._numbers = index, snapshot.numbers
            self._alive = np.ones(len(snapshot.numbers), np.bool_)
            self._delta = {number: vector for number, vector in self._delta.items() if number > snapshot.last_number}
            self._stacked = None
            self.last_number = max(self.last_number, snapshot.last_number)
            self.last_removal = snapshot.last_removal  # what was removed since is read again

    def add(self, numbers: Sequence[int], vectors: Vectors) -> None:
        """Put vectors into the delta."""
        with self._swap:
            self._bury(numbers)
            self._delta.update(zip(map(int, numbers), vectors, strict=True))
            self._stacked = None

    def remove(self, numbers: Sequence[int]) -> None:
        """Forget vectors."""
        with self._swap:
            self._bury(numbers)
            for number in numbers:
                self._delta.pop(int(number), None)
            self._stacked = None

    def clear(self) -> None:
        """Forget everything."""
        with self._swap:
            self._index, self._numbers, self._alive = None, np.empty(0, np.int64), np.empty(0, np.bool_)
            self._delta, self._stacked = {}, None

    def search(self, vector: Vectors, limit: int, allowed: Collection[int] | None) -> list[tuple[int, float]]:
        """Return the nearest (number, cosine)."""
        with self._swap:
            index, numbers, usable = self._index, self._numbers, self._alive.copy()
            delta_numbers, delta = self._stacked_delta(len(vector))
        if allowed is not None:
            wanted = np.fromiter(allowed, np.int64, len(allowed))
            usable &= np.isin(numbers, wanted)
            keep = np.isin(delta_numbers, wanted)
            delta_numbers, delta = delta_numbers[keep], delta[keep]
        found = list(zip(delta_numbers.tolist(), (delta @ vector).tolist(), strict=True))
        if index is not None and usable.any():
            found += _search(index, numbers, usable, vector, limit)
        return sorted(found, key=lambda item: (-item[1], item[0]))[:limit]

    def _bury(self, numbers: Sequence[int]) -> None:
        if len(self._numbers) and len(numbers):
            self._alive &= ~np.isin(self._numbers, np.asarray(numbers, np.int64))

    def _stacked_delta(self, dimensions: int) -> tuple[NDArray[np.int64], Vectors]:
        if self._stacked is None:
            vectors = np.stack(list(self._delta.values())) if self._delta else np.empty((0, dimensions), np.float32)
            self._stacked = np.array(list(self._delta), np.int64), vectors
        return self._stacked


class FaissIndex(Index):
    """Searches the replicas of one host, under its own folder."""

    def __init__(self, folder: Path, feed: Feed) -> None:
        self._folder, self._feed = Path(folder), feed
        self._replicas: dict[Space, Replica] = {}
        self._compacting: dict[Space, asyncio.Task[None]] = {}

    async def upsert(self, space: Space, numbers: Sequence[int], vectors: Vectors) -> None:
        replica = await self._replica(space)
        await asyncio.to_thread(replica.add, numbers, np.asarray(vectors, np.float32))

    async def delete(self, space: Space, numbers: Sequence[int]) -> None:
        await asyncio.to_thread((await self._replica(space)).remove, numbers)

    async def count(self, space: Space) -> int:
        return (await self._current(space)).size

    async def search(self, space: Space, vector: Vectors, limit: int, *, allowed: Collection[int] | None = None) -> list[tuple[int, float]]:
        replica = await self._current(space)
        return await asyncio.to_thread(replica.search, np.asarray(vector, np.float32), limit, allowed)

    async def compact(self, space: Space, *, erase: bool = False) -> None:
        """Write a new snapshot from the records; with `erase` no older one is kept, so that removed vectors leave the disk."""
        replica = await self._replica(space)
        async with replica.catching_up:
            last_removal = await self._feed.last_removal(*_key(space))
            numbers, vectors, after = [], [], 0
            while len((part := await self._feed.added(*_key(space), after, BATCH)).numbers):
                numbers.append(part.numbers)
                vectors.append(part.vectors)
                after = int(part.numbers[-1])
            if numbers:
                await asyncio.to_thread(_rebuild, replica, np.concatenate(numbers), np.concatenate(vectors), last_removal)
            else:
                replica.clear()
            await asyncio.to_thread(snapshots.prune, replica.folder, (1 if numbers else 0) if erase else snapshots.KEPT)

    async def _current(self, space: Space) -> Replica:
        """Return the space's replica, up to date with the records."""
        replica = await self._replica(space)
        if time.monotonic() - replica.looked_at < LOOK_EVERY:
            return replica
        async with replica.catching_up:
            if time.monotonic() - replica.looked_at >= LOOK_EVERY:
                await self._catch_up(space, replica)
        if replica.is_loose and (space not in self._compacting or self._compacting[space].done()):
            self._compacting[space] = asyncio.create_task(self.compact(space))
        return replica

    async def _catch_up(self, space: Space, replica: Replica) -> None:
        now = time.monotonic()
        while len((part := await self._feed.added(*_key(space), replica.last_number, BATCH)).numbers):
            await asyncio.to_thread(replica.add, part.numbers.tolist(), part.vectors.astype(np.float32))
            replica.last_number = int(part.numbers[-1])
        gone = await self._feed.removed(*_key(space), replica.last_removal)
        if gone:
            await asyncio.to_thread(replica.remove, [number for _, number in gone])
            replica.last_removal = gone[-1][0]
        replica.looked_at = now

    async def _replica(self, space: Space) -> Replica:
        if space not in self._replicas:
            # The names of tenants and collections are theirs: a hash is a file name on every system.
            name = hashlib.sha256(json.dumps(_key(space)).encode()).hexdigest()[:32]
            replica = self._replicas.setdefault(space, Replica(self._folder / name))
            async with replica.catching_up:
                if not replica.looked_at:
                    await asyncio.to_thread(replica.restore)
        return self._replicas[space]


def _key(space: Space) -> tuple[str, str, str]:
    return space.tenant, space.collection, space.generation


def _rebuild(replica: Replica, numbers: NDArray[np.int64], vectors: NDArray[np.float16], last_removal: int) -> None:
    faiss = _faiss()
    dimensions, count = vectors.shape[1], len(numbers)
    if count <= EXACT_UP_TO:
        index = faiss.IndexScalarQuantizer(dimensions, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    else:
        lists = int(4 * count**0.5)
        index = faiss.index_factory(dimensions, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
        index.nprobe = max(1, lists // 10)
    rows = vectors.astype(np.float32)
    if not index.is_trained:
        index.train(rows[np.random.default_rng(0).permutation(count)[: 40 * index.nlist]])
    index.add(rows)
    data = faiss.serialize_index(index).tobytes()
    snapshot = snapshots.Snapshot(numbers, data, int(numbers[-1]), last_removal)
    snapshots.save(replica.folder, snapshot)
    replica.adopt(snapshot, index)


def _search(index: Any, numbers: NDArray[np.int64], usable: NDArray[np.bool_], vector: Vectors, limit: int) -> list[tuple[int, float]]:
    faiss = _faiss()
    bitmap = np.packbits(usable, bitorder="little")
    selector = faiss.IDSelectorBitmap(len(usable), faiss.swig_ptr(bitmap))
    if hasattr(index, "nlist"):
        visited = index.nlist if usable.mean() < FEW_ALLOWED else index.nprobe
        parameters = faiss.SearchParametersIVF(sel=selector, nprobe=visited)
    else:
        parameters = faiss.SearchParameters(sel=selector)
    scores, places = index.search(vector[None, :], min(limit, len(numbers)), params=parameters)
    return [(int(numbers[at]), float(score)) for at, score in zip(places[0], scores[0], strict=True) if at >= 0]

"""FAISS as each host's replica of the vectors in the records: a snapshot on the disk, and in memory what came or went since."""

import asyncio
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragqueue.errors import ConfigError, StoreFull
from ragqueue.indexes.base import Index, Space, Vectors
from ragqueue.records import chunks
from ragqueue.records.chunks import News
from ragqueue.records.store import Records

LOOK_EVERY = 0.2  # seconds between looks at the records: a new chunk is found everywhere within a second
BATCH = 20_000  # vectors fed at once
COMPACT_EVERY = 60.0  # seconds between two tries: one that failed must not be repeated at every search
IDLE = 3600.0  # seconds without a search after which a space leaves the memory when another one comes
PROBES = 8  # newest vectors of a snapshot that are compared with the records
SEAL = 4096  # vectors of an index above which none are put into it any more: 3 MB are copied in a millisecond
EXACT_UP_TO = 300_000  # inverted lists above; no graphs, which lose a selective filter's hits (recall 0.12)
FEW_ALLOWED = 0.1  # share below which all inverted lists are visited
LOOSE_SHARE = 0.1
LOOSE_LEAST = 2_000  # vectors outside the snapshot that do no harm
PARTIAL_AGE = 60.0  # seconds without a write after which nobody writes a partial file any more

Numbers = NDArray[np.int64]

logger = logging.getLogger(__name__)


def _faiss() -> Any:
    import faiss  # on first use: a process that forks after that has children that deadlock

    return faiss


class View(NamedTuple):
    """The state of a space that a search sees; the next state is another object."""

    numbers: Numbers  # of every vector, rising
    alive: NDArray[np.bool_]
    indexes: tuple[Any, ...]  # FAISS's, one after the other
    number: int  # up to where it follows the chunks of the records,
    removal: int  # and the removals
    base: int = 0  # vectors of the first index when that is a snapshot's

    @property
    def size(self) -> int:
        return int(np.count_nonzero(self.alive))

    @property
    def is_loose(self) -> bool:  # whether too much of it is outside the snapshot, or dead
        loose = 2 * len(self.numbers) - self.base - self.size
        return loose >= LOOSE_LEAST and loose > LOOSE_SHARE * self.base

    def follow(self, news: News) -> "View":
        """Return it with what changed in the records since."""
        alive, indexes, halves = self.alive & ~np.isin(self.numbers, news.gone), list(self.indexes), news.vectors
        if not len(news.numbers):
            return self._replace(alive=alive, removal=news.removal)
        if len(indexes) > bool(self.base) and indexes[-1].ntotal < SEAL and indexes[-1].d == halves.shape[1]:
            small = _faiss().vector_to_array(indexes.pop().codes).view("<f2")
            halves = np.concatenate([small.reshape(-1, halves.shape[1]), halves])
        numbers, alive = np.append(self.numbers, news.numbers), np.append(alive, np.ones(len(news.numbers), np.bool_))
        return View(numbers, alive, (*indexes, _index(halves)), int(numbers[-1]), news.removal, self.base)

    def search(self, vector: Vectors, limit: int, allowed: Collection[int] | None = None) -> list[tuple[int, float]]:
        """Return the nearest (number, cosine), ties by number. Raises ConfigError."""
        usable = self.alive if allowed is None else self.alive & np.isin(self.numbers, list(allowed))
        start, found = 0, [(np.empty(0, np.int64), np.empty(0, np.float32))]
        for index in self.indexes:
            if index.d != len(vector):
                problem = f"a vector of {len(vector)} dimensions does not fit a space of {index.d}: the embedder was changed under its name"
                raise ConfigError(f"{problem}; give it another name, or reindex the collection")
            if (mine := usable[start : start + index.ntotal]).any():
                places, scores = _nearest(index, mine, vector, limit)
                found.append((places + start, scores))
            start += index.ntotal
        places, scores = (np.concatenate(column) for column in zip(*found, strict=True))
        best = np.lexsort((places, -scores))[:limit]
        return list(zip(self.numbers[places[best]].tolist(), scores[best].tolist(), strict=True))


EMPTY = View(np.empty(0, np.int64), np.empty(0, np.bool_), (), -1, 0)


def _nearest(index: Any, usable: NDArray[np.bool_], vector: Vectors, limit: int) -> tuple[Numbers, Vectors]:
    """Return the nearest (places, cosines) in any order; the lower places where the last ones tie."""
    faiss, count, asked = _faiss(), int(np.count_nonzero(usable)), limit + 1
    selector = None if count == len(usable) else faiss.IDSelectorBitmap(np.packbits(usable, bitorder="little"))
    parameters = faiss.SearchParameters(sel=selector)
    if hasattr(index, "nprobe"):
        visited = index.nlist if count < FEW_ALLOWED * len(usable) else index.nprobe
        parameters = faiss.SearchParametersIVF(sel=selector, nprobe=visited)
    while True:
        found, at = index.search(vector[None, :], min(asked, count), params=parameters)
        scores, places = np.round(found[0][at[0] >= 0], 6), at[0][at[0] >= 0]
        # FAISS keeps the higher places of equal scores (a text that stands in many documents): ask on until there is a step.
        if asked >= count or len(scores) <= limit or scores[limit - 1] > scores[-1]:
            return places, scores
        asked *= 4


def _index(halves: NDArray[np.float16]) -> Any:
    faiss, (count, dimensions) = _faiss(), halves.shape
    if count <= EXACT_UP_TO:
        index = faiss.IndexScalarQuantizer(dimensions, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        index.add_sa_codes(halves.view(np.uint8))  # the bits of the records are the codes
        return index
    lists = int(4 * count**0.5)
    index = faiss.index_factory(dimensions, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.nprobe = max(1, lists // 10)
    index.train(halves[:: max(1, count // (40 * lists))].astype(np.float32))
    for start in range(0, count, SEAL):  # all at once would need twice the memory again
        index.add(halves[start : start + SEAL].astype(np.float32))
    return index


def _build(folder: Path, parts: Sequence[News]) -> View:
    """Write a snapshot of all that a space holds, delete the others, and return its view. Raises StoreFull."""
    view, partial = EMPTY, folder / f"{os.urandom(8).hex()}.partial"
    if parts:
        numbers, halves = np.concatenate([part.numbers for part in parts]), np.concatenate([part.vectors for part in parts])
        view = View(numbers, np.ones(len(numbers), np.bool_), (_index(halves),), int(numbers[-1]), parts[0].removal, len(numbers))
        pieces = np.append(len(numbers), numbers).astype("<i8").data, _faiss().serialize_index(view.indexes[0]).data
        checksum = hashlib.sha256(pieces[0])
        checksum.update(pieces[1])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, folder / f"{view.number}-{view.removal}-{checksum.hexdigest()}.faiss")
        except OSError as error:
            _discard(partial)
            raise StoreFull(f"the snapshot cannot be written to {str(folder)!r} ({error.strerror}): free some space there") from error
    # Two processes may do this at once: the last one sees what both wrote, and keeps what knows of more removals.
    for _, _, path in _snapshots(folder)[len(view.indexes) :]:
        _discard(path)
    for path in folder.glob("*.partial"):
        _discard(path, PARTIAL_AGE)
    return view


def _load(path: Path, living: Numbers, removal: int, truth: News) -> View | None:
    """Return what lives of a snapshot; None when it is damaged, lacks what the records held then, or holds other vectors."""
    data = np.empty(0, np.uint8)
    with suppress(OSError):
        data = np.fromfile(path, np.uint8)
    # FAISS itself noticed 3 of 60 flipped bits.
    if hashlib.sha256(data.data).hexdigest() != path.stem.rpartition("-")[2]:
        return None
    end = 8 + 8 * int(data[:8].view("<i8")[0])
    numbers, index = data[8:end].view("<i8").copy(), _faiss().deserialize_index(data[end:])
    known = living[living <= numbers[-1]]
    view = View(numbers, np.isin(numbers, living), (index,), int(known[-1]), removal, len(numbers))
    # After a backup was restored, or the records begun anew, the same numbers name other chunks.
    probes = zip(truth.numbers.tolist(), truth.vectors.astype(np.float32), strict=True)
    same = (abs(view.search(vector, 1, [n])[0][1] - float(vector @ vector)) <= 1e-3 for n, vector in probes if n <= view.number)
    return view if view.size >= len(known) and truth.vectors.shape[1] == index.d and all(same) else None


def _snapshots(folder: Path) -> list[tuple[int, int, Path]]:
    """Return (last removal, last number, path) of each snapshot, newest first."""
    named = [(path.stem.split("-"), path) for path in folder.glob("[0-9]*-[0-9]*-*.faiss")]
    return sorted(((int(removal), int(number), path) for (number, removal, _), path in named), reverse=True)


def _discard(path: Path, age: float = 0.0) -> None:
    """Delete a file that nobody has written for `age` seconds; one that is in use (Windows) goes the next time."""
    with suppress(OSError):
        if not age or time.time() - path.stat().st_mtime > age:
            path.unlink()


@dataclass(slots=True, eq=False)
class Replica:  # a space in this process
    folder: Path
    view: View | None = None  # None until the first search
    looked_at: float = -math.inf
    compacted_at: float = -math.inf
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    compacting: asyncio.Task[None] | None = None


class FaissIndex(Index):
    """Searches a host's replicas. What is upserted or deleted stands in the records already: the next search looks at them."""

    def __init__(self, folder: Path, records: Records) -> None:
        self._folder, self._records = Path(folder), records
        self._replicas: dict[Space, Replica] = {}

    async def upsert(self, space: Space, numbers: Sequence[int], vectors: Vectors) -> None:
        self._look_again(space)

    async def delete(self, space: Space, numbers: Sequence[int]) -> None:
        self._look_again(space)

    async def count(self, space: Space) -> int:
        return (await self._current(space)).size

    async def search(self, space: Space, vector: Vectors, limit: int, *, allowed: Collection[int] | None = None) -> list[tuple[int, float]]:
        view = await self._current(space)
        return await asyncio.to_thread(view.search, np.asarray(vector, np.float32), limit, allowed)

    async def compact(self, space: Space) -> None:
        """Write a new snapshot from the records and delete the old: removed vectors leave the disk. Raises StoreFull, Unavailable."""
        replica, parts = self._replica(space), [await self._records.read(chunks.news, space, -1, 0, BATCH)]
        while len(parts[-1].numbers):
            parts.append(await self._records.read(chunks.news, space, int(parts[-1].numbers[-1]), parts[0].removal, BATCH))
        view = await asyncio.to_thread(_build, replica.folder, parts[:-1])
        async with replica.changing:
            if replica.view is not None:
                replica.view = await self._follow(space, view)

    def _look_again(self, space: Space) -> None:
        replica = self._replica(space)
        replica.looked_at = min(replica.looked_at, time.monotonic() - LOOK_EVERY)  # long enough ago for the next search, not for idleness

    async def _current(self, space: Space) -> View:
        """Return the space as the records have it, or had it a moment ago."""
        replica = self._replica(space)
        async with replica.changing:
            now, view = time.monotonic(), replica.view
            if view is None or now - replica.looked_at >= LOOK_EVERY:
                replica.looked_at = now  # before the look: what is written meanwhile asks for another
                view = replica.view = await self._follow(space, view or await self._saved(space, replica.folder))
        if view.is_loose and now - replica.compacted_at >= COMPACT_EVERY:
            replica.compacted_at = now
            replica.compacting = asyncio.create_task(self._tighten(space))
        return view

    async def _follow(self, space: Space, view: View) -> View:
        while True:
            news = await self._records.read(chunks.news, space, view.number, view.removal, BATCH)
            if len(news.numbers) or len(news.gone):
                view = await asyncio.to_thread(view.follow, news)
            if len(news.numbers) < BATCH:
                return view

    async def _saved(self, space: Space, folder: Path) -> View:
        """Return the newest good snapshot; one that says something else than the records is deleted."""
        living, removal = await self._records.read(chunks.living, space)
        for _, number, path in await asyncio.to_thread(_snapshots, folder):
            if len(probes := living[living <= number][-PROBES:]):
                truth = await self._records.read(chunks.news, space, int(probes[0]) - 1, removal, PROBES)
                if view := await asyncio.to_thread(_load, path, living, removal, truth):
                    return view
            logger.warning("index.snapshot_refused %s: the space is built again from the records", path.name)
            await asyncio.to_thread(_discard, path)
        return EMPTY

    async def _tighten(self, space: Space) -> None:
        try:
            await self.compact(space)
        except Exception as error:  # noqa: BLE001 - the edge of a task: the search goes on without it
            logger.warning("index.compaction_failed: %s", error)

    def _replica(self, space: Space) -> Replica:
        if space not in self._replicas:
            idle = time.monotonic() - IDLE
            self._replicas = {other: replica for other, replica in self._replicas.items() if replica.looked_at > idle}
            # The names of tenants and collections are theirs: a hash is a file name on every system.
            self._replicas[space] = Replica(self._folder / hashlib.sha256(json.dumps(space).encode()).hexdigest()[:32])
        return self._replicas[space]

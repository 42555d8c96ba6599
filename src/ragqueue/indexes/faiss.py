"""FAISS as each host's replica of the vectors in the records: a snapshot on the disk, and in memory what came or went since."""

import asyncio
import logging
import os
import time
import zlib
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragqueue.adapters import Given
from ragqueue.errors import ConfigError, StoreFull
from ragqueue.indexes.base import Index, Vectors
from ragqueue.records import chunks
from ragqueue.records.store import Records
from ragqueue.types import Space

LOOK_EVERY = (
    0.2  # seconds between looks at the records: a new chunk is found everywhere within a second
)
BATCH = 20_000  # vectors fed at once: 500,000 in one read stop every other thread for 0.4 s
COMPACT_EVERY = (
    60.0  # seconds between two tries: one that failed must not be repeated at every search
)
IDLE = (
    3600.0  # seconds without a search after which a space leaves the memory when another one comes
)
PROBES = 8  # newest vectors of a snapshot that are compared with the records
SEAL = 4096  # vectors of an index above which none are put into it any more: 3 MB are copied in a millisecond
EXACT_UP_TO = (
    300_000  # inverted lists above; no graphs, which lose a selective filter's hits (recall 0.12)
)
FEW_ALLOWED = 0.1  # share below which all inverted lists are visited
LOOSE_LEAST = (
    2_000  # vectors outside the snapshot, or gone, that do no harm; a tenth of it when that is more
)
PARTIAL_AGE = 60.0  # seconds without a write after which nobody writes a partial file any more

logger = logging.getLogger(__name__)


def _faiss() -> Any:
    import faiss  # on first use: a process that forks after that has children that deadlock

    return faiss


class View(NamedTuple):
    """The state of a space that a search sees; the next state is another object."""

    numbers: NDArray[np.int64] = np.empty(
        0, np.int64
    )  # of every vector, rising; -1 for those that are gone
    indexes: tuple[Any, ...] = ()  # FAISS's, one after the other
    number: int = -1  # up to where it follows the chunks of the records,
    removal: int = 0  # and the removals
    base: int = 0  # how many of the vectors a snapshot holds

    @property
    def size(self) -> int:
        return int(np.count_nonzero(self.numbers >= 0))

    def follow(self, news: chunks.News) -> "View":
        """Return it with what changed in the records since."""
        numbers, indexes, halves = (
            np.where(np.isin(self.numbers, news.gone), -1, self.numbers),
            list(self.indexes),
            news.vectors,
        )
        if not len(news.numbers):
            return self._replace(numbers=numbers, removal=news.removal)
        if indexes and indexes[-1].ntotal < SEAL and indexes[-1].d == halves.shape[1]:
            small = _faiss().vector_to_array(indexes.pop().codes).view("<f2")
            halves = np.concatenate([small.reshape(-1, halves.shape[1]), halves])
        numbers = np.append(numbers, news.numbers)
        return View(numbers, (*indexes, _index(halves)), int(numbers[-1]), news.removal, self.base)

    def search(
        self, vector: Vectors, limit: int, allowed: Collection[int] | None = None
    ) -> list[tuple[int, float]]:
        """Return the nearest (number, cosine), ties by number. Raises ConfigError."""
        usable = self.numbers >= 0 if allowed is None else np.isin(self.numbers, list(allowed))
        start, found = 0, list[tuple[int, float]]()
        for index in self.indexes:
            if index.d != len(vector):
                problem = f"a vector of {len(vector)} dimensions does not fit a space of {index.d}: the embedder was changed under its name"
                raise ConfigError(f"{problem}; give it another name, or reindex the collection")
            if (mine := usable[start : start + index.ntotal]).any():
                places, scores = _nearest(index, mine, vector, limit)
                found += zip(self.numbers[start + places].tolist(), scores.tolist(), strict=True)
            start += index.ntotal
        return sorted(found, key=lambda hit: (-hit[1], hit[0]))[:limit]


def _nearest(
    index: Any, usable: NDArray[np.bool_], vector: Vectors, limit: int
) -> tuple[NDArray[np.int64], Vectors]:
    """Return the nearest (places, cosines) in any order; the lower places where the last ones tie."""
    faiss, count, asked = _faiss(), int(np.count_nonzero(usable)), limit + 1
    selector = (
        None
        if count == len(usable)
        else faiss.IDSelectorBitmap(np.packbits(usable, bitorder="little"))
    )
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
        index = faiss.IndexScalarQuantizer(
            dimensions, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        index.add_sa_codes(halves.view(np.uint8))  # the bits of the records are the codes
        return index
    lists = int(4 * count**0.5)
    index = faiss.index_factory(dimensions, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.nprobe = max(1, lists // 10)
    index.train(halves[:: max(1, count // (40 * lists))].astype(np.float32))
    for start in range(0, count, SEAL):  # all at once would need twice the memory again
        index.add(halves[start : start + SEAL].astype(np.float32))
    return index


def _build(folder: Path, parts: Sequence[chunks.News]) -> View:
    """Write a snapshot of all that a space holds, delete the others, and return its view. Raises StoreFull."""
    view, partial = View(), folder / f"{os.urandom(8).hex()}.partial"
    if parts:
        numbers, index = (
            np.concatenate([part.numbers for part in parts]),
            _index(np.concatenate([part.vectors for part in parts])),
        )
        view = View(numbers, (index,), int(numbers[-1]), parts[0].removal, len(numbers))
        pieces = _faiss().serialize_index(index).data, numbers.astype("<i8").data
        checksum = zlib.crc32(pieces[1], zlib.crc32(pieces[0]))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            os.replace(
                partial, folder / f"{view.removal:020}-{view.number:020}-{checksum:08x}.faiss"
            )  # the names sort by age
        except OSError as error:
            _discard(partial)
            raise StoreFull(
                f"the snapshot cannot be written to {str(folder)!r} ({error.strerror}): free some space there"
            ) from error
    # Two processes may do this at once: the last one sees what both wrote, and keeps what knows of more removals.
    for path in sorted(folder.glob("*.faiss"), reverse=True)[len(view.indexes) :]:
        _discard(path)
    for path in folder.glob("*.partial"):
        _discard(path, PARTIAL_AGE)
    return view


def _load(path: Path, known: NDArray[np.int64], removal: int, truth: chunks.News) -> View | None:
    """Return what lives of a snapshot; None when it is damaged, lacks what the records held then, or holds other vectors. Raises OSError."""
    data = np.fromfile(path, np.uint8)
    # FAISS itself noticed 3 of 60 flipped bits; CRC-32 notices every one.
    if f"{zlib.crc32(data.data):08x}" != path.stem.split("-")[2]:
        return None
    index = _faiss().deserialize_index(data)  # which leaves what follows it
    numbers = data[-8 * index.ntotal :].view("<i8")
    view = View(
        np.where(np.isin(numbers, known), numbers, -1),
        (index,),
        int(known[-1]),
        removal,
        len(numbers),
    )
    # After a backup was restored, or the records begun anew, the same numbers name other chunks.
    probes = zip(truth.numbers.tolist(), truth.vectors.astype(np.float32), strict=True)
    same = (
        abs(view.search(vector, 1, [n])[0][1] - float(vector @ vector)) <= 1e-3
        for n, vector in probes
        if n <= view.number
    )
    return (
        view
        if view.size == len(known) and truth.vectors.shape[1] == index.d and all(same)
        else None
    )


def _discard(path: Path, age: float = 0.0) -> None:
    """Delete a file that nobody has written for `age` seconds; one that is in use (Windows) goes the next time."""
    with suppress(OSError):
        if not age or time.time() - path.stat().st_mtime > age:
            path.unlink()


class Replica:  # a space in this process
    def __init__(self) -> None:
        self.view: View | None = None  # None until the first search
        self.looked_at = self.compact_after = 0.0
        self.changing = asyncio.Lock()
        self.compacting: asyncio.Task[None] | None = None


class FaissIndex(Index):
    """Searches a host's replicas. What is upserted or deleted stands in the records already: the next search looks at them."""

    def __init__(self, folder: Path, records: Records) -> None:
        self._folder, self._records = Path(folder), records
        self._replicas: dict[Space, Replica] = {}
        self._changed: set[Space] = set()  # that the next search looks for in the records

    async def upsert(self, space: Space, numbers: Sequence[int], vectors: Vectors) -> None:
        self._changed.add(space)

    async def delete(self, space: Space, numbers: Sequence[int]) -> None:
        self._changed.add(space)

    async def count(self, space: Space) -> int:
        return (await self._current(space)).size

    async def search(
        self, space: Space, vector: Vectors, limit: int, *, allowed: Collection[int] | None = None
    ) -> list[tuple[int, float]]:
        view = await self._current(space)
        return await asyncio.to_thread(view.search, np.asarray(vector, np.float32), limit, allowed)

    async def compact(self, space: Space) -> None:
        """Write a new snapshot from the records and delete the old: removed vectors leave the disk. Raises StoreFull, Unavailable."""
        parts = [await self._records.read(chunks.news, space, -1, 0, BATCH)]
        while len(parts[-1].numbers):
            parts.append(
                await self._records.read(
                    chunks.news, space, int(parts[-1].numbers[-1]), parts[0].removal, BATCH
                )
            )
        view = await asyncio.to_thread(_build, self._folder / chunks.scope(space), parts[:-1])
        if replica := self._replicas.get(space):
            async with replica.changing:
                replica.view = await self._follow(space, view)

    async def _current(self, space: Space) -> View:
        """Return the space as the records have it, or had it a moment ago."""
        if space not in self._replicas:
            used_since = time.monotonic() - IDLE
            self._replicas = {
                other: replica
                for other, replica in self._replicas.items()
                if replica.looked_at > used_since
            }
        replica = self._replicas.setdefault(space, Replica())
        async with replica.changing:
            now, view = time.monotonic(), replica.view
            if view is None or space in self._changed or now - replica.looked_at >= LOOK_EVERY:
                replica.looked_at = now
                self._changed.discard(
                    space
                )  # before the look: what is written meanwhile asks for another
                view = replica.view = await self._follow(space, view or await self._saved(space))
        outside, gone = len(view.numbers) - view.base, len(view.numbers) - view.size
        if outside + gone >= max(LOOSE_LEAST, view.base // 10) and now >= replica.compact_after:
            replica.compact_after = now + COMPACT_EVERY
            replica.compacting = asyncio.create_task(self._tighten(space))
        return view

    async def _follow(self, space: Space, view: View) -> View:
        while True:
            news = await self._records.read(chunks.news, space, view.number, view.removal, BATCH)
            if len(news.numbers) or len(news.gone):
                view = await asyncio.to_thread(view.follow, news)
            if len(news.numbers) < BATCH:
                return view

    async def _saved(self, space: Space) -> View:
        """Return the newest good snapshot; one that says something else than the records is deleted."""
        living, removal = await self._records.read(chunks.living, space)
        for path in await asyncio.to_thread(
            sorted, (self._folder / chunks.scope(space)).glob("*.faiss"), reverse=True
        ):
            known = living[living <= int(path.stem.split("-")[1])]
            if len(known):
                truth = await self._records.read(
                    chunks.news, space, int(known[-PROBES:][0]) - 1, removal, PROBES
                )
                with suppress(OSError):  # another process has just deleted it
                    if view := await asyncio.to_thread(_load, path, known, removal, truth):
                        return view
            logger.warning(
                "index.snapshot_refused %s: the space is built again from the records", path.name
            )
            await asyncio.to_thread(_discard, path)
        return View()

    async def _tighten(self, space: Space) -> None:
        try:
            await self.compact(space)
        except Exception as error:  # noqa: BLE001 - the edge of a task: the search goes on without it
            logger.warning("index.compaction_failed: %s", error)


def open(given: Given) -> FaissIndex:
    """Return this host's replicas of the vectors in the records."""
    assert given.records is not None
    return FaissIndex(given.folder, given.records)

"""A replica's vectors: immutable views of a space over FAISS indexes in memory, and snapshots of them on the disk.

Exact fp16 up to 300,000 vectors, inverted lists above; no graphs, which lose a selective filter's hits (recall 0.12).
A snapshot is written whole, named for what it holds and for its checksum, without which FAISS noticed 3 of 60 flipped bits.
"""

import hashlib
import logging
import os
import re
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragqueue.errors import ConfigError, StoreFull
from ragqueue.records.vectors import News

SEAL = 4096  # vectors of an index above which none are put into it any more: 3 MB are copied in a millisecond
EXACT_UP_TO = 300_000
FEW_ALLOWED = 0.1  # share below which all inverted lists are visited
LOOSE_SHARE = 0.1
LOOSE_LEAST = 2_000  # vectors outside the snapshot that do no harm
PARTIAL_AGE = 60.0  # seconds without a write after which nobody writes a partial file any more
_NAME = re.compile(r"(\d+)-(\d+)-([0-9a-f]{64})\.faiss")  # last number, last removal, SHA-256

Numbers = NDArray[np.int64]
Halves = NDArray[np.float16]
Vectors = NDArray[np.float32]
Mask = NDArray[np.bool_]

logger = logging.getLogger(__name__)


def _faiss() -> Any:
    """Return FAISS, loaded on first use: a fork after that deadlocks, and its own call for one thread covers only its caller."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import faiss

    return faiss


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The state of a space that a search sees; the next state is another object."""

    numbers: Numbers  # of every vector, rising
    alive: Mask
    indexes: tuple[Any, ...]  # FAISS's, one after the other
    number: int  # up to where it follows the chunks of the records,
    removal: int  # and the removals
    base: int = 0  # vectors of the first index when that is a snapshot's

    @property
    def size(self) -> int:
        return int(np.count_nonzero(self.alive))

    @property
    def is_loose(self) -> bool:
        """Whether too much of it is outside the snapshot, or dead."""
        loose = 2 * len(self.numbers) - self.base - self.size  # what came since, and what is dead
        return loose >= LOOSE_LEAST and loose > LOOSE_SHARE * self.base

    def follow(self, news: News) -> "View":
        """Return it with what changed in the records since. Raises ConfigError."""
        alive, indexes, number, halves = self.alive & ~np.isin(self.numbers, news.gone), list(self.indexes), self.number, news.vectors
        if len(news.numbers):
            self._check_dimensions(halves.shape[1])
            number = int(news.numbers[-1])
            if len(indexes) > bool(self.base) and indexes[-1].ntotal < SEAL:
                small = _faiss().vector_to_array(indexes.pop().codes).view("<f2")
                halves = np.concatenate([small.reshape(-1, halves.shape[1]), halves])
            indexes.append(_exact(halves))
        numbers, alive = np.concatenate([self.numbers, news.numbers]), np.concatenate([alive, np.ones(len(news.numbers), np.bool_)])
        return View(numbers, alive, tuple(indexes), number, news.removal, self.base)

    def search(self, vector: Vectors, limit: int, allowed: Collection[int] | None = None) -> list[tuple[int, float]]:
        """Return the nearest (number, cosine), ties by number. Raises ConfigError."""
        self._check_dimensions(len(vector))
        usable, start, found = self.alive, 0, []
        if allowed is not None:
            usable = usable & np.isin(self.numbers, np.fromiter(allowed, np.int64, len(allowed)))
        for index in self.indexes if limit > 0 else ():
            places, scores = _search(index, usable[start : start + index.ntotal], vector, limit)
            found.append((places + start, scores))
            start += index.ntotal
        if not found:
            return []
        places, scores = (np.concatenate(column) for column in zip(*found, strict=True))
        best = np.lexsort((places, -scores))[:limit]
        return list(zip(self.numbers[places[best]].tolist(), scores[best].tolist(), strict=True))

    def agrees(self, truth: News) -> bool:
        """Say whether vectors of the records are the same here.

        They are not when the records were restored from a backup or begun anew: then the same numbers name other chunks.
        """
        return all(
            len(vector) == self.indexes[0].d and abs(self.search(vector, 1, [number])[0][1] - float(vector @ vector)) <= 1e-3
            for number, vector in zip(truth.numbers.tolist(), truth.vectors.astype(np.float32), strict=True)
            if number <= self.number
        )

    def _check_dimensions(self, dimensions: int) -> None:
        if self.indexes and self.indexes[0].d != dimensions:
            raise ConfigError(
                f"a vector of {dimensions} dimensions does not fit a space of {self.indexes[0].d}: "
                "the embedder was changed under its name; give it another name, or reindex the collection"
            )


def empty(removal: int) -> View:
    """Return the view of a space that holds nothing."""
    return View(np.empty(0, np.int64), np.empty(0, np.bool_), (), -1, removal)


def _search(index: Any, usable: Mask, vector: Vectors, limit: int) -> tuple[Numbers, Vectors]:
    """Return the nearest (places, cosines) in any order; the lower places where the last ones tie."""
    count = int(np.count_nonzero(usable))
    parameters, asked = _parameters(index, usable, count), min(limit + 1, count)
    while asked:
        found, at = index.search(vector[None, :], asked, params=parameters)
        scores, places = np.round(found[0][at[0] >= 0], 6), at[0][at[0] >= 0]
        # FAISS keeps the higher places of equal scores (a text that stands in many documents): ask on until there is a step.
        if asked == count or len(scores) <= limit or scores[limit - 1] > scores[-1]:
            return places, scores
        asked = min(4 * asked, count)
    return np.empty(0, np.int64), np.empty(0, np.float32)


def _parameters(index: Any, usable: Mask, count: int) -> Any:
    faiss = _faiss()
    selector = None if count == len(usable) else faiss.IDSelectorBitmap(np.packbits(usable, bitorder="little"))
    if hasattr(index, "nprobe"):
        return faiss.SearchParametersIVF(sel=selector, nprobe=index.nlist if count < FEW_ALLOWED * len(usable) else index.nprobe)
    return None if selector is None else faiss.SearchParameters(sel=selector)


def _exact(halves: Halves) -> Any:
    faiss = _faiss()
    index = faiss.IndexScalarQuantizer(halves.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.add_sa_codes(halves.view(np.uint8))  # the bits of the records are the codes
    return index


def _inverted(halves: Halves) -> Any:
    faiss = _faiss()
    lists = int(4 * len(halves) ** 0.5)
    index = faiss.index_factory(halves.shape[1], f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.nprobe = max(1, lists // 10)
    sample = np.sort(np.random.default_rng(0).permutation(len(halves))[: 40 * lists])
    index.train(halves[sample].astype(np.float32))
    for start in range(0, len(halves), SEAL):  # all at once would need twice the memory again
        index.add(halves[start : start + SEAL].astype(np.float32))
    return index


def build(folder: Path, parts: Sequence[News], removal: int, *, erase: bool) -> View:
    """Write a snapshot of all that a space holds, delete what it replaces, and return its view. Raises StoreFull."""
    view, path = empty(removal), None
    if parts:
        numbers, halves = np.concatenate([part.numbers for part in parts]), np.concatenate([part.vectors for part in parts])
        index = (_exact if len(numbers) <= EXACT_UP_TO else _inverted)(halves)
        view = View(numbers, np.ones(len(numbers), np.bool_), (index,), int(numbers[-1]), removal, len(numbers))
        path = _save(folder, view)
    _prune(folder, path, removal, erase=erase)
    return view


def _save(folder: Path, view: View) -> Path:
    """Write a view of one index: all of it or nothing is there afterwards, whatever happens. Raises StoreFull."""
    whole = np.append(len(view.numbers), view.numbers).astype("<i8").data, _faiss().serialize_index(view.indexes[0]).data
    checksum = hashlib.sha256(whole[0])
    checksum.update(whole[1])
    path, partial = folder / f"{view.number}-{view.removal}-{checksum.hexdigest()}.faiss", folder / f"{os.urandom(8).hex()}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.writelines(whole)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise StoreFull(f"the snapshot cannot be written to {str(folder)!r} ({error.strerror}): free some space there") from error
    finally:
        partial.unlink(missing_ok=True)
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return path


def load(path: Path, living: Numbers, removal: int) -> View | None:
    """Return what lives of a snapshot; None when it is not what its name says, or lacks what the records held then."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        logger.warning("index.snapshot_unreadable %s: %s", path.name, error)
        return None
    if hashlib.sha256(data.data).hexdigest() != _parts(path)[2]:
        logger.warning("index.snapshot_damaged %s", path.name)
        return None
    end = 8 + 8 * int(data[:8].view("<i8")[0])
    numbers, index = data[8:end].view("<i8"), _faiss().deserialize_index(data[end:])
    alive, known = np.isin(numbers, living), living[living <= numbers[-1]]
    if len(known) == 0 or np.count_nonzero(alive) < len(known):
        return None
    return View(numbers, alive, (index,), int(known[-1]), removal, len(numbers))


def snapshots(folder: Path) -> list[Path]:
    """Return the snapshots of a folder, newest first."""
    return sorted((path for path in folder.glob("*.faiss") if _NAME.fullmatch(path.name)), key=_parts, reverse=True)


def _prune(folder: Path, written: Path | None, removal: int, *, erase: bool) -> None:
    """Delete the snapshots that one just written replaces, but for the last that a reader may be opening; with `erase` that too.

    Two processes may do this at once: each looks after it wrote, so one of them sees what the other left with removed vectors.
    """
    others = [path for path in snapshots(folder) if path != written]
    older = [path for path in others if _parts(path)[1] <= removal]
    if written is not None and len(older) < len(others):
        discard(written)
    for path in older if erase or written is None else older[1:]:
        discard(path)
    for path in folder.glob("*.partial"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > PARTIAL_AGE:
                path.unlink()


def discard(path: Path) -> None:
    """Delete a snapshot; one that is in use (Windows) goes the next time."""
    with suppress(OSError):
        path.unlink()


def _parts(path: Path) -> tuple[int, int, str]:
    number, removal, checksum = path.stem.split("-")
    return int(number), int(removal), checksum

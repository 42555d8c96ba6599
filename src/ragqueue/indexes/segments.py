"""Vectors in memory: immutable FAISS segments, and immutable views of a space over them.

Exact fp16 up to 300,000 vectors, inverted lists above; no graphs, which lose a selective filter's hits (recall 0.12).
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragqueue.errors import ConfigError

SEAL = 4096  # vectors of a segment above which it is not merged any more: 3 MB are copied in a millisecond
EXACT_UP_TO = 300_000
FEW_ALLOWED = 0.1  # share below which all inverted lists are visited
LOOSE_SHARE = 0.1
LOOSE_LEAST = 2_000  # vectors outside the snapshot that do no harm

Numbers = NDArray[np.int64]
Halves = NDArray[np.float16]
Vectors = NDArray[np.float32]


def _faiss() -> Any:
    """Return FAISS, loaded on first use: a fork after that deadlocks, and its own call for one thread covers only its caller."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import faiss

    return faiss


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Vectors that never change, and which of them live."""

    numbers: Numbers  # rising; the place here is the id in FAISS
    index: Any
    alive: NDArray[np.bool_]

    def places(self, wanted: Numbers) -> Numbers:
        """Return where those of `wanted` stand that are here."""
        at = np.minimum(np.searchsorted(self.numbers, wanted), len(self.numbers) - 1)
        found: Numbers = at[self.numbers[at] == wanted]
        return found

    def without(self, gone: Numbers) -> "Segment":
        dying = self.places(gone)
        if not self.alive[dying].any():
            return self
        alive = self.alive.copy()
        alive[dying] = False
        return replace(self, alive=alive)

    def search(self, vector: Vectors, limit: int, allowed: Numbers | None) -> tuple[Numbers, Vectors]:
        """Return the nearest (numbers, cosines) in any order; the lower numbers where the last ones tie."""
        usable = self.alive
        if allowed is not None:
            places = self.places(allowed)
            usable = np.zeros(len(usable), np.bool_)
            usable[places] = self.alive[places]
        count = int(np.count_nonzero(usable))
        parameters, asked = _parameters(self.index, usable, count), min(limit + 1, count)
        while asked:
            found, at = self.index.search(vector[None, :], asked, params=parameters)
            scores, places = np.round(found[0][at[0] >= 0], 6), at[0][at[0] >= 0]
            # FAISS keeps the higher numbers of equal scores (a text that stands in many documents): ask on until there is a step.
            if asked == count or len(scores) <= limit or scores[limit - 1] > scores[-1]:
                return self.numbers[places], scores
            asked = min(4 * asked, count)
        return np.empty(0, np.int64), np.empty(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The state of a space that a search sees; the next state is another object."""

    number: int = -1  # up to where it follows the chunks of the records,
    removal: int = 0  # and the removals
    base: int = 0  # vectors of the first segment when that came from a snapshot
    segments: tuple[Segment, ...] = ()

    @property
    def size(self) -> int:
        return sum(int(np.count_nonzero(segment.alive)) for segment in self.segments)

    @property
    def is_loose(self) -> bool:
        """Whether too much of it is outside the snapshot, or dead."""
        rows = sum(len(segment.numbers) for segment in self.segments)
        loose = 2 * rows - self.base - self.size  # what came since, and what is dead
        return loose >= LOOSE_LEAST and loose > LOOSE_SHARE * self.base

    def put(self, numbers: Numbers, vectors: NDArray[Any]) -> "View":
        """Return it with these vectors, in the place of those of the same numbers. Raises ConfigError."""
        numbers, last = np.unique(numbers[::-1], return_index=True)
        halves = np.ascontiguousarray(vectors[::-1][last], "<f2")
        kept = list(self.remove(numbers).segments)
        _check_dimensions(kept, halves.shape[1])
        if len(kept) > bool(self.base) and len(kept[-1].numbers) < SEAL:
            small = kept.pop()
            codes = _faiss().vector_to_array(small.index.codes).view("<f2").reshape(len(small.numbers), -1)
            numbers, halves = np.concatenate([small.numbers[small.alive], numbers]), np.concatenate([codes[small.alive], halves])
            order = np.argsort(numbers)
            numbers, halves = numbers[order], halves[order]
        return replace(self, segments=(*kept, _exact(numbers, halves)))

    def follow(self, numbers: Numbers, halves: Halves) -> "View":
        """Return it with the next vectors of the records; those that it has already stay where they are."""
        held = [segment.numbers[places[segment.alive[places]]] for segment in self.segments for places in [segment.places(numbers)]]
        new = ~np.isin(numbers, np.concatenate(held)) if held else np.ones(len(numbers), np.bool_)
        view = self.put(numbers[new], halves[new]) if new.any() else self
        return replace(view, number=int(numbers[-1]))

    def remove(self, gone: Numbers) -> "View":
        return replace(self, segments=tuple(segment.without(gone) for segment in self.segments))

    def search(self, vector: Vectors, limit: int, allowed: Collection[int] | None) -> list[tuple[int, float]]:
        """Return the nearest (number, cosine). Raises ConfigError."""
        _check_dimensions(self.segments, len(vector))
        wanted = None if allowed is None else np.sort(np.fromiter(allowed, np.int64, len(allowed)))
        parts = [segment.search(vector, limit, wanted) for segment in self.segments] if limit > 0 else []
        if not parts:
            return []
        numbers, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((numbers, -scores))[:limit]
        return list(zip(numbers[order].tolist(), scores[order].tolist(), strict=True))


def build(numbers: Numbers, halves: Halves) -> Segment:
    """Return a segment of vectors whose numbers rise, exact or with inverted lists by their count."""
    return (_exact if len(numbers) <= EXACT_UP_TO else _inverted)(numbers, halves)


def dump(segment: Segment) -> NDArray[np.uint8]:
    """Return the index of a segment as bytes."""
    data: NDArray[np.uint8] = _faiss().serialize_index(segment.index)
    return data


def restore(numbers: Numbers, data: NDArray[np.uint8], living: Numbers) -> Segment:
    """Return a segment from the bytes of its index, of which only `living` live."""
    return Segment(numbers, _faiss().deserialize_index(data), np.isin(numbers, living))


def _check_dimensions(segments: Sequence[Segment], dimensions: int) -> None:
    if segments and segments[0].index.d != dimensions:
        raise ConfigError(
            f"a vector of {dimensions} dimensions does not fit a space of {segments[0].index.d}: "
            "the embedder was changed under its name; give it another name, or reindex the collection"
        )


def _exact(numbers: Numbers, halves: Halves) -> Segment:
    faiss = _faiss()
    index = faiss.IndexScalarQuantizer(halves.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.add_sa_codes(halves.view(np.uint8))  # the bits of the records are the codes
    return Segment(numbers, index, np.ones(len(numbers), np.bool_))


def _inverted(numbers: Numbers, halves: Halves) -> Segment:
    faiss = _faiss()
    lists = int(4 * len(numbers) ** 0.5)
    index = faiss.index_factory(halves.shape[1], f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.nprobe = max(1, lists // 10)
    sample = np.sort(np.random.default_rng(0).permutation(len(numbers))[: 40 * lists])
    index.train(halves[sample].astype(np.float32))
    for start in range(0, len(numbers), SEAL):  # all at once would need twice the memory again
        index.add(halves[start : start + SEAL].astype(np.float32))
    return Segment(numbers, index, np.ones(len(numbers), np.bool_))


def _parameters(index: Any, usable: NDArray[np.bool_], count: int) -> Any:
    faiss = _faiss()
    selector = None if count == len(usable) else faiss.IDSelectorBitmap(np.packbits(usable, bitorder="little"))
    if hasattr(index, "nprobe"):
        return faiss.SearchParametersIVF(sel=selector, nprobe=index.nlist if count < FEW_ALLOWED * len(usable) else index.nprobe)
    return None if selector is None else faiss.SearchParameters(sel=selector)

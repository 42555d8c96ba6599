"""What a search sees of a space: numbers of chunks, and FAISS's indexes of their vectors."""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragqueue.errors import ConfigError
from ragqueue.indexes.base import Vectors
from ragqueue.records import chunks

# Vectors of an index above which none are put into it any more: 3 MB are copied in a millisecond.
SEAL = 4096
# Inverted lists above; no graphs, which lose a selective filter's hits (recall 0.12).
EXACT_UP_TO = 300_000
FEW_ALLOWED = 0.1  # share below which all inverted lists are visited
TRAINING = 40  # vectors that each inverted list is trained with

Halves = NDArray[np.float16]


def load_faiss() -> Any:
    """Import FAISS, on first use: a process that forks after that has children that deadlock."""
    import faiss

    return faiss


class View(NamedTuple):
    """The state of a space that a search sees; the next state is another object."""

    # Of every vector, rising; -1 for those that are gone.
    numbers: NDArray[np.int64] = np.empty(0, np.int64)
    indexes: tuple[Any, ...] = ()  # FAISS's, one after the other
    number: int = -1  # up to where it follows the chunks of the records,
    removal: int = 0  # and the removals
    base: int = 0  # how many of the vectors a snapshot holds

    @property
    def size(self) -> int:
        """Return how many vectors live."""
        return int(np.count_nonzero(self.numbers >= 0))

    @property
    def loose(self) -> int:
        """Return how many vectors stand outside the snapshot, or are gone."""
        outside = len(self.numbers) - self.base
        gone = len(self.numbers) - self.size
        return outside + gone

    def follow(self, news: chunks.News) -> "View":
        """Return it with what changed in the records since."""
        numbers = np.where(np.isin(self.numbers, news.gone), -1, self.numbers)
        if not len(news.numbers):
            return self._replace(numbers=numbers, removal=news.removal)

        indexes = list(self.indexes)
        vectors = news.vectors
        if indexes and _is_open(indexes[-1], dimensions=vectors.shape[1]):
            vectors = np.concatenate([_vectors_of(indexes.pop()), vectors])
        return View(
            numbers=np.append(numbers, news.numbers),
            indexes=(*indexes, build_index(vectors)),
            number=int(news.numbers[-1]),
            removal=news.removal,
            base=self.base,
        )

    def search(
        self, vector: Vectors, limit: int, allowed: Collection[int] | None = None
    ) -> list[tuple[int, float]]:
        """Return the nearest (number, cosine), ties by number. Raises ConfigError."""
        if allowed is None:
            usable = self.numbers >= 0
        else:
            usable = np.isin(self.numbers, list(allowed))

        nearest: list[tuple[int, float]] = []
        start = 0
        for index in self.indexes:
            _check_dimensions(index, vector)
            end = start + index.ntotal
            if usable[start:end].any():
                places, cosines = _search_index(index, usable[start:end], vector, limit)
                numbers = self.numbers[start + places]
                nearest += zip(numbers.tolist(), cosines.tolist(), strict=True)
            start = end
        return sorted(nearest, key=_best_first)[:limit]


def _best_first(pair: tuple[int, float]) -> tuple[float, int]:
    number, cosine = pair
    return -cosine, number


def _check_dimensions(index: Any, vector: Vectors) -> None:
    if index.d != len(vector):
        raise ConfigError(
            f"a vector of {len(vector)} dimensions does not fit a space of {index.d}: "
            "the embedder was changed under its name; "
            "give it another name, or reindex the collection"
        )


def _search_index(
    index: Any, usable: NDArray[np.bool_], vector: Vectors, limit: int
) -> tuple[NDArray[np.int64], Vectors]:
    """Return the nearest (places, cosines) among the usable places of an index, in any order.

    Where the last ones tie, they are the lower places.
    """
    count = int(np.count_nonzero(usable))
    # It must live until the search is over: FAISS gets a pointer to it.
    selector = _selector(usable, count)
    few = count < FEW_ALLOWED * len(usable)
    parameters = _parameters(index, selector, visit_all=few)
    asked = limit + 1
    while True:
        cosine_rows, place_rows = index.search(
            vector[None, :], min(asked, count), params=parameters
        )
        is_hit = place_rows[0] >= 0
        cosines = np.round(cosine_rows[0][is_hit], 6)
        # FAISS keeps the higher places of equal scores (a text that stands in many documents):
        # ask on until there is a step.
        if asked >= count or len(cosines) <= limit or cosines[limit - 1] > cosines[-1]:
            return place_rows[0][is_hit], cosines
        asked *= 4


def _selector(usable: NDArray[np.bool_], count: int) -> Any:
    """Return FAISS's filter for the usable places; None where all of them are."""
    if count == len(usable):
        return None
    return load_faiss().IDSelectorBitmap(np.packbits(usable, bitorder="little"))


def _parameters(index: Any, selector: Any, *, visit_all: bool) -> Any:
    """Return FAISS's parameters of a search; only inverted lists are visited in part."""
    faiss = load_faiss()
    if not hasattr(index, "nprobe"):
        return faiss.SearchParameters(sel=selector)
    visited = index.nlist if visit_all else index.nprobe
    return faiss.SearchParametersIVF(sel=selector, nprobe=visited)


def build_index(vectors: Halves) -> Any:
    """Return FAISS's index of these vectors, shape (count, dimensions)."""
    if len(vectors) <= EXACT_UP_TO:
        return _exact_index(vectors)
    return _inverted_lists(vectors)


def _exact_index(vectors: Halves) -> Any:
    faiss = load_faiss()
    index = faiss.IndexScalarQuantizer(
        vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index.add_sa_codes(vectors.view(np.uint8))  # the bits of the records are the codes
    return index


def _inverted_lists(vectors: Halves) -> Any:
    faiss = load_faiss()
    count, dimensions = vectors.shape
    lists = int(4 * count**0.5)
    index = faiss.index_factory(dimensions, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.nprobe = max(1, lists // 10)
    step = max(1, count // (TRAINING * lists))
    index.train(vectors[::step].astype(np.float32))
    # All at once would need twice the memory again.
    for start in range(0, count, SEAL):
        index.add(vectors[start : start + SEAL].astype(np.float32))
    return index


def _is_open(index: Any, *, dimensions: int) -> bool:
    """Say whether vectors may still be put into an index."""
    return bool(index.ntotal < SEAL and index.d == dimensions)


def _vectors_of(index: Any) -> Halves:
    """Return the vectors of an exact index."""
    codes: NDArray[np.uint8] = load_faiss().vector_to_array(index.codes)
    return codes.view("<f2").reshape(-1, index.d)

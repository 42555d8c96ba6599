"""Hybrid retrieval: both scores of every candidate, standardised and added.

This beat fusing ranks on every set. Without vectors BM25 ranks alone.
"""

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from ragqueue.embedders.base import Embedder
from ragqueue.indexes.base import Index
from ragqueue.language.tokens import asked
from ragqueue.records import chunks, keywords
from ragqueue.records.keywords import Scored, Weights
from ragqueue.records.store import Records
from ragqueue.types import Hit

DENSE_WEIGHT = 0.4
POOL = 100  # candidates of each list
FEW = 5  # below, mean and deviation say nothing: fixed scales are used
FLAT = 1e-6  # a deviation below it: this list does not tell the candidates apart
_ANY_QUESTION = "¿Qué?"  # its language takes statistics to tell
Floats = NDArray[np.float64]


class Nearest(NamedTuple):
    """A question's vector and the chunks near it."""

    vector: NDArray[np.float32] | None = None  # None: no space has vectors of the embedder's
    numbers: Sequence[int] = ()


class Candidate(NamedTuple):
    """A chunk that may answer a question, with its scores as a hit carries them."""

    number: int
    score: float
    cosine: float | None
    keyword: float


class FusedRetriever:
    """Finds the chunks that answer a question.

    None is ever of another tenant, nor of a deleted document.
    """

    def __init__(self, records: Records, embedder: Embedder | None, index: Index | None) -> None:
        self._records = records
        self._embedder = embedder
        self._index = index

    async def warm(self) -> None:
        """Load the models and libraries that the first question would wait for.

        Raises ConfigError, Unavailable.
        """
        await asyncio.to_thread(asked, _ANY_QUESTION, ["en"])
        if self._embedder is not None:
            await self._embedder.embed([_ANY_QUESTION])
        if self._index is not None:
            await self._index.warm()

    async def retrieve(
        self,
        tenant: str,
        question: str,
        *,
        collections: Sequence[str] | None = None,
        limit: int = 10,
    ) -> list[Hit]:
        """Return at most `limit` hits, best first.

        They are of these collections (None: of all of the tenant's). Raises NotFound, Unavailable.
        """
        most = max(POOL, limit)
        weights = await self._records.read(keywords.weigh, tenant, collections, question)
        # What is found by words is scored while the vectors are searched:
        # most of the work of both is over at once.
        worded, nearest = await asyncio.gather(
            self._records.read(keywords.search, weights, most),
            self._search_vectors(weights, question, most),
        )
        return await self._records.read(self._rank, weights, worded, nearest, limit)

    async def _search_vectors(self, weights: Weights, question: str, limit: int) -> Nearest:
        """Return the chunks nearest to a question, at most `limit`, best first."""
        spaces = [space for space in weights.spaces if self._speaks(space.generation)]
        if not spaces or self._embedder is None or self._index is None:
            return Nearest()
        vectors = await self._embedder.embed([question])
        vector = vectors[0]
        searches = [self._index.search(space, vector, limit) for space in spaces]
        lists = await asyncio.gather(*searches)
        best = sorted(chain.from_iterable(lists), key=_best_first)[:limit]
        return Nearest(vector=vector, numbers=[number for number, _ in best])

    def _speaks(self, generation: str) -> bool:
        """Say whether vectors are the embedder's.

        Their generation is "<embedder>" or "<embedder>/<chunking>".
        """
        if self._embedder is None:
            return False
        return f"{generation}/".startswith(f"{self._embedder.name}/")

    def _rank(
        self,
        connection: Connection,
        weights: Weights,
        worded: Sequence[Scored],
        nearest: Nearest,
        limit: int,
    ) -> list[Hit]:
        """Return at most `limit` hits of what was found by words and by vectors, best first."""
        pool = _gather(connection, weights, worded, nearest)
        candidates = self._score(pool, nearest.vector, limit)
        return _load(connection, weights.tenant, candidates)

    def _score(
        self, pool: Sequence[Scored], vector: NDArray[np.float32] | None, limit: int
    ) -> list[Candidate]:
        """Return the best `limit` of a pool, best first, ties in the order of the pool."""
        cosines = self._cosines(pool, vector)
        bm25 = np.array([scored.bm25 for scored in pool])
        parts = np.array([scored.part for scored in pool])
        scores = fuse(cosines, bm25, parts)
        candidates = []
        for i in np.argsort(-scores, kind="stable")[:limit].tolist():
            cosine = None if np.isnan(cosines[i]) else float(cosines[i])
            candidates.append(
                Candidate(
                    number=pool[i].number,
                    score=float(scores[i]),
                    cosine=cosine,
                    keyword=pool[i].part,
                )
            )
        return candidates

    def _cosines(self, pool: Sequence[Scored], vector: NDArray[np.float32] | None) -> Floats:
        """Return the cosine of each with the question's vector; NaN without a comparable one."""
        cosines = np.full(len(pool), np.nan)
        if vector is None:
            return cosines
        places: list[int] = []
        stored: list[bytes] = []
        for i, scored in enumerate(pool):
            if scored.vector is not None and self._speaks(scored.generation):
                places.append(i)
                stored.append(scored.vector)
        halves = np.frombuffer(b"".join(stored), "<f2").reshape(len(stored), len(vector))
        # Rounding can pass 1.
        cosines[places] = np.clip(halves.astype(np.float32) @ vector, -1, 1)
        return cosines


def _gather(
    connection: Connection, weights: Weights, worded: Sequence[Scored], nearest: Nearest
) -> list[Scored]:
    """Return what was found by words or by vectors, each with its score by words, by number."""
    missing = set(nearest.numbers) - {scored.number for scored in worded}
    unworded = keywords.scored(connection, weights, missing)
    # So that equal scores stay in this order.
    return sorted([*worded, *unworded], key=lambda scored: scored.number)


def _load(connection: Connection, tenant: str, candidates: Sequence[Candidate]) -> list[Hit]:
    """Return the candidates that may be shown as hits, in their order."""
    by_number = {candidate.number: candidate for candidate in candidates}
    hits = []
    for chunk in chunks.load(connection, tenant, list(by_number)):
        candidate = by_number[chunk.number]
        hits.append(
            Hit(
                chunk=chunk,
                score=candidate.score,
                cosine=candidate.cosine,
                keyword=candidate.keyword,
            )
        )
    return hits


def _best_first(pair: tuple[int, float]) -> tuple[float, int]:
    number, cosine = pair
    return -cosine, number


def fuse(cosines: Floats, bm25: Floats, parts: Floats) -> Floats:
    """Return 0.4 z(cosine) + 0.6 z(BM25), where no cosine (NaN) is an average one.

    Of few it is 0.4 max(cosine, 0) + 0.6 `parts` (BM25 over its bound).
    """
    has_cosine = ~np.isnan(cosines)
    if not has_cosine.any():
        return bm25
    if len(cosines) < FEW:
        positive = np.maximum(np.where(has_cosine, cosines, 0), 0)
        return DENSE_WEIGHT * positive + (1 - DENSE_WEIGHT) * parts
    dense = np.zeros(len(cosines))
    dense[has_cosine] = standardised(cosines[has_cosine])
    return DENSE_WEIGHT * dense + (1 - DENSE_WEIGHT) * standardised(bm25)


def standardised(scores: Floats) -> Floats:
    """Return the scores with mean 0 and deviation 1; all 0 when they hardly differ."""
    deviation = scores.std()
    standard = np.zeros(len(scores))
    if deviation > FLAT:
        standard = (scores - scores.mean()) / deviation
    return standard

"""Hybrid retrieval: both scores of every candidate, standardised and added. Better than fusing ranks on every set we measured."""

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from ragqueue.embedders.base import Embedder
from ragqueue.indexes.base import Index
from ragqueue.records import chunks, keywords
from ragqueue.records.chunks import Features, Space
from ragqueue.records.keywords import Weights, best
from ragqueue.records.store import Records
from ragqueue.retrieval.base import Retriever
from ragqueue.retrieval.dense import DenseRetriever
from ragqueue.types import Hit

DENSE_WEIGHT = 0.4
POOL = 100  # candidates of each list
FEW = 5  # below, mean and deviation say nothing: fixed scales are used
FLAT = 1e-6  # a deviation below it: this list does not tell the candidates apart

Floats = NDArray[np.float64]


class FusedRetriever(Retriever):
    """Ranks by 0.4 cosine + 0.6 BM25; by BM25 alone without an embedder, or where the vectors are another's."""

    def __init__(self, records: Records, embedder: Embedder | None, index: Index | None) -> None:
        self._records = records
        self._dense = DenseRetriever(records, embedder, index) if embedder is not None and index is not None else None

    async def retrieve(self, tenant: str, question: str, *, collections: Sequence[str] | None = None, limit: int = 10) -> list[Hit]:
        spaces = await self._records.read(chunks.spaces_of, tenant, collections)
        pool = max(POOL, limit)
        (vector, near), (weights, worded) = await asyncio.gather(
            self._nearest(tenant, question, spaces, pool), self._records.read(_worded, tenant, spaces, question, pool)
        )
        return await self._records.read(_rank, weights, vector, [number for number, _ in near], worded, limit)

    async def _nearest(
        self, tenant: str, question: str, spaces: Sequence[Space], pool: int
    ) -> tuple[NDArray[np.float32] | None, list[tuple[int, float]]]:
        if self._dense is None:
            return None, []
        return await self._dense.nearest(tenant, question, spaces, pool)


def _worded(connection: Connection, tenant: str, spaces: Sequence[Space], question: str, pool: int) -> tuple[Weights, list[int]]:
    weights = keywords.weigh(connection, tenant, spaces, question)
    return weights, keywords.candidates(connection, weights, 2 * pool)


def _rank(
    connection: Connection, weights: Weights, vector: NDArray[np.float32] | None, near: Sequence[int], worded: Sequence[int], limit: int
) -> list[Hit]:
    found = chunks.features(connection, weights.tenant, {*near, *worded})
    words = {chunk.number: weights.score(chunk) for chunk in found}
    ranked = best((number, words[number]) for number in worded if number in words)
    pool = {*near, *(number for number, _ in ranked[: max(POOL, limit)])}
    found = [chunk for chunk in found if chunk.number in pool]
    cosines = cosines_of(found, vector)
    bm25 = np.array([words[chunk.number] for chunk in found])
    parts = np.array([weights.part(chunk, words[chunk.number]) for chunk in found])
    top = best(zip((chunk.number for chunk in found), fuse(cosines, bm25, parts).tolist(), strict=True))[:limit]
    place = {chunk.number: at for at, chunk in enumerate(found)}
    loaded = {chunk.number: chunk for chunk in chunks.load(connection, weights.tenant, [number for number, _ in top])}
    return [
        Hit(loaded[number], score, None if np.isnan(cosines[place[number]]) else float(cosines[place[number]]), float(parts[place[number]]))
        for number, score in top
        if number in loaded
    ]


def cosines_of(found: Sequence[Features], vector: NDArray[np.float32] | None) -> Floats:
    """Return the cosine of each chunk's stored vector with the question's; NaN where there is none that fits."""
    cosines = np.full(len(found), np.nan)
    if vector is not None:
        size = 2 * len(vector)  # bytes of fp16
        held = [at for at, chunk in enumerate(found) if chunk.vector is not None and len(chunk.vector) == size]
        stored = np.frombuffer(b"".join(found[at].vector or b"" for at in held), "<f2").reshape(len(held), len(vector))
        cosines[held] = np.clip(stored.astype(np.float32) @ vector, -1, 1)  # rounding can pass 1
    return cosines


def fuse(cosines: Floats, bm25: Floats, parts: Floats) -> Floats:
    """Return one score a candidate: 0.4 z(cosine) + 0.6 z(BM25).

    Without any cosine (all NaN) it is BM25 alone; a candidate without one counts as average there. Of few candidates
    it is `0.4 max(cosine, 0) + 0.6 parts`, with `parts` = BM25 over its bound.
    """
    known = ~np.isnan(cosines)
    if not known.any():
        return bm25
    if len(cosines) < FEW:
        return DENSE_WEIGHT * np.maximum(np.where(known, cosines, 0), 0) + (1 - DENSE_WEIGHT) * parts
    dense = np.zeros(len(cosines))
    dense[known] = standardised(cosines[known])
    return DENSE_WEIGHT * dense + (1 - DENSE_WEIGHT) * standardised(bm25)


def standardised(scores: Floats) -> Floats:
    """Return the scores with mean 0 and deviation 1; all 0 when they hardly differ."""
    deviation = scores.std()
    return (scores - scores.mean()) / deviation if deviation > FLAT else np.zeros(len(scores))

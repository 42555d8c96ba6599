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
from ragqueue.records.keywords import Scored, Weights
from ragqueue.records.store import Records
from ragqueue.retrieval.base import Retriever
from ragqueue.retrieval.dense import DenseRetriever, Nearest
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
        # What is found by words is scored while the vectors are searched: most of the work of both is over at once.
        near, (weights, worded) = await asyncio.gather(
            self._nearest(tenant, question, spaces, pool), self._records.read(_worded, tenant, spaces, question, pool)
        )
        return await self._records.read(_rank, near, weights, worded, limit)

    async def _nearest(self, tenant: str, question: str, spaces: Sequence[Space], pool: int) -> Nearest:
        return await self._dense.nearest(tenant, question, spaces, pool) if self._dense is not None else Nearest()


def _worded(connection: Connection, tenant: str, spaces: Sequence[Space], question: str, pool: int) -> tuple[Weights, list[Scored]]:
    weights = keywords.weigh(connection, tenant, spaces, question)
    return weights, keywords.search(connection, weights, pool)


def _rank(connection: Connection, near: Nearest, weights: Weights, worded: Sequence[Scored], limit: int) -> list[Hit]:
    missing = {number for number, _ in near.found} - {one.chunk.number for one in worded}
    unworded = weights.scored(chunks.features(connection, weights.tenant, weights.spaces, missing))
    pool = sorted([*worded, *unworded], key=lambda one: one.chunk.number)  # so that equal scores stay in this order
    cosines = cosines_of([one.chunk for one in pool], near)
    scores = fuse(cosines, np.array([one.bm25 for one in pool]), np.array([one.part for one in pool]))
    hits = {}
    for at in np.argsort(-scores, kind="stable")[:limit]:
        cosine = None if np.isnan(cosines[at]) else float(cosines[at])
        hits[pool[at].chunk.number] = (float(scores[at]), cosine, pool[at].part)
    return [Hit(chunk, *hits[chunk.number]) for chunk in chunks.load(connection, weights.tenant, list(hits))]


def cosines_of(pool: Sequence[Features], near: Nearest) -> Floats:
    """Return the cosine of each chunk's stored vector with the question's; NaN where there is none to compare."""
    cosines = np.full(len(pool), np.nan)
    if near.vector is not None:
        held = [at for at, chunk in enumerate(pool) if chunk.vector is not None and chunk.generation in near.generations]
        stored = np.frombuffer(b"".join(pool[at].vector or b"" for at in held), "<f2").reshape(len(held), len(near.vector))
        cosines[held] = np.clip(stored.astype(np.float32) @ near.vector, -1, 1)  # rounding can pass 1
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

"""Hybrid retrieval: both scores of every candidate, standardised and added. Better than fusing ranks on every set we measured."""

import asyncio
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from ragqueue.embedders.base import Embedder
from ragqueue.indexes.base import Index, Space
from ragqueue.records import chunks, keywords
from ragqueue.records.chunks import Features
from ragqueue.records.keywords import Scored, Weights
from ragqueue.records.store import Records
from ragqueue.retrieval.base import Retriever
from ragqueue.types import Hit

DENSE_WEIGHT = 0.4
POOL = 100  # candidates of each list
FEW = 5  # below, mean and deviation say nothing: fixed scales are used
FLAT = 1e-6  # a deviation below it: this list does not tell the candidates apart

Floats = NDArray[np.float64]


class Nearest(NamedTuple):
    """What a search by vector found."""

    vector: NDArray[np.float32] | None = None  # the question's; None when no space fits the embedder
    numbers: Collection[int] = ()
    generations: Collection[str] = ()  # whose vectors are comparable with the question's


class FusedRetriever(Retriever):
    """Ranks by 0.4 cosine + 0.6 BM25; by BM25 alone without an embedder, or where the vectors are another's."""

    def __init__(self, records: Records, embedder: Embedder | None, index: Index | None) -> None:
        self._records, self._embedder, self._index = records, embedder, index

    async def retrieve(self, tenant: str, question: str, *, collections: Sequence[str] | None = None, limit: int = 10) -> list[Hit]:
        pool = max(POOL, limit)
        if self._embedder is None or self._index is None:
            return await self._records.read(_by_words, tenant, question, collections, pool, limit)
        weights = await self._records.read(keywords.weigh, tenant, collections, question)
        # What is found by words is scored while the vectors are searched: most of the work of both is over at once.
        near, worded = await asyncio.gather(
            _nearest(self._embedder, self._index, weights, question, pool), self._records.read(keywords.search, weights, pool)
        )
        return await self._records.read(_rank, weights, worded, near, limit)


async def _nearest(embedder: Embedder, index: Index, weights: Weights, question: str, limit: int) -> Nearest:
    """Search the spaces whose vectors are this embedder's: their generation is "<embedder>" or "<embedder>/<chunking>"."""
    spoken = [space for space in weights.spaces if f"{space.generation}/".startswith(f"{embedder.name}/")]
    if not spoken:
        return Nearest()
    vector = (await embedder.embed([question]))[0]
    lists = await asyncio.gather(*(index.search(Space(weights.tenant, *space), vector, limit) for space in spoken))
    found = sorted((pair for pairs in lists for pair in pairs), key=lambda pair: (-pair[1], pair[0]))[:limit]
    return Nearest(vector, [number for number, _ in found], {space.generation for space in spoken})


def _by_words(connection: Connection, tenant: str, question: str, names: Sequence[str] | None, pool: int, limit: int) -> list[Hit]:
    weights = keywords.weigh(connection, tenant, names, question)
    return _rank(connection, weights, keywords.search(connection, weights, pool), Nearest(), limit)


def _rank(connection: Connection, weights: Weights, worded: Sequence[Scored], near: Nearest, limit: int) -> list[Hit]:
    missing = set(near.numbers) - {one.chunk.number for one in worded}
    unworded = weights.scored(chunks.features(connection, weights.tenant, weights.spaces, missing)) if missing else []
    pool = sorted([*worded, *unworded], key=lambda one: one.chunk.number)  # so that equal scores stay in this order
    cosines = cosines_of([one.chunk for one in pool], near)
    scores = fuse(cosines, np.array([one.bm25 for one in pool]), np.array([one.part for one in pool]))
    best = {pool[at].chunk.number: at for at in np.argsort(-scores, kind="stable")[:limit]}
    hits = []
    for chunk in chunks.load(connection, weights.tenant, list(best)):
        at = best[chunk.number]
        hits.append(Hit(chunk, float(scores[at]), None if np.isnan(cosines[at]) else float(cosines[at]), pool[at].part))
    return hits


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

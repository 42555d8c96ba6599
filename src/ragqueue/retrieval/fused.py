"""Hybrid retrieval: both scores of every candidate, standardised and added (which beat fusing ranks on every set); BM25 alone without vectors."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from ragqueue.embedders.base import Embedder
from ragqueue.indexes.base import Index
from ragqueue.records import chunks, keywords
from ragqueue.records.keywords import Scored, Weights
from ragqueue.records.store import Records
from ragqueue.types import Hit

DENSE_WEIGHT = 0.4
POOL = 100  # candidates of each list
FEW = 5  # below, mean and deviation say nothing: fixed scales are used
FLAT = 1e-6  # a deviation below it: this list does not tell the candidates apart
Floats = NDArray[np.float64]
Nearest = tuple[
    NDArray[np.float32] | None, Sequence[int]
]  # the question's vector, the numbers of the chunks near it


class FusedRetriever:
    """Finds the chunks that answer a question; never one of another tenant, nor of a deleted document."""

    def __init__(self, records: Records, embedder: Embedder | None, index: Index | None) -> None:
        self._records, self._embedder, self._index = records, embedder, index

    async def retrieve(
        self,
        tenant: str,
        question: str,
        *,
        collections: Sequence[str] | None = None,
        limit: int = 10,
    ) -> list[Hit]:
        """Return at most `limit` hits, best first, from these collections (None: all of the tenant's). Raises NotFound, Unavailable."""
        pool = max(POOL, limit)
        weights = await self._records.read(keywords.weigh, tenant, collections, question)
        # What is found by words is scored while the vectors are searched: most of the work of both is over at once.
        worded = self._records.read(keywords.search, weights, pool)
        found = await asyncio.gather(worded, self._nearest(weights, question, pool))
        return await self._records.read(self._rank, weights, *found, limit)

    def _speaks(self, generation: str) -> bool:
        """Say whether vectors are the embedder's: their generation is "<embedder>" or "<embedder>/<chunking>"."""
        return self._embedder is not None and f"{generation}/".startswith(f"{self._embedder.name}/")

    async def _nearest(self, weights: Weights, question: str, limit: int) -> Nearest:
        spaces = [space for space in weights.spaces if self._speaks(space.generation)]
        if not spaces or self._embedder is None or self._index is None:
            return None, []
        vector = (await self._embedder.embed([question]))[0]
        lists = await asyncio.gather(
            *(self._index.search(space, vector, limit) for space in spaces)
        )
        found = sorted(
            (pair for pairs in lists for pair in pairs), key=lambda pair: (-pair[1], pair[0])
        )
        return vector, [number for number, _ in found[:limit]]

    def _rank(
        self,
        connection: Connection,
        weights: Weights,
        worded: Sequence[Scored],
        nearest: Nearest,
        limit: int,
    ) -> list[Hit]:
        vector, near = nearest
        missing = set(near) - {one.number for one in worded}
        unworded = keywords.scored(connection, weights, missing)
        pool = sorted(
            [*worded, *unworded], key=lambda one: one.number
        )  # so that equal scores stay in this order
        cosines = np.full(len(pool), np.nan)
        if vector is not None:
            held = [
                at
                for at, one in enumerate(pool)
                if one.vector is not None and self._speaks(one.generation)
            ]
            stored = np.frombuffer(b"".join(pool[at].vector or b"" for at in held), "<f2").reshape(
                len(held), len(vector)
            )
            cosines[held] = np.clip(
                stored.astype(np.float32) @ vector, -1, 1
            )  # rounding can pass 1
        scores = fuse(
            cosines, np.array([one.bm25 for one in pool]), np.array([one.part for one in pool])
        )
        best = {pool[at].number: at for at in np.argsort(-scores, kind="stable")[:limit]}
        found = (
            (chunk, best[chunk.number])
            for chunk in chunks.load(connection, weights.tenant, list(best))
        )
        return [
            Hit(
                chunk,
                float(scores[at]),
                None if np.isnan(cosines[at]) else float(cosines[at]),
                pool[at].part,
            )
            for chunk, at in found
        ]


def fuse(cosines: Floats, bm25: Floats, parts: Floats) -> Floats:
    """Return 0.4 z(cosine) + 0.6 z(BM25), where no cosine (NaN) is an average one; of few 0.4 max(cosine, 0) + 0.6 `parts` (BM25 over its bound)."""
    known = ~np.isnan(cosines)
    if not known.any():
        return bm25
    if len(cosines) < FEW:
        return (
            DENSE_WEIGHT * np.maximum(np.where(known, cosines, 0), 0) + (1 - DENSE_WEIGHT) * parts
        )
    dense = np.zeros(len(cosines))
    dense[known] = standardised(cosines[known])
    return DENSE_WEIGHT * dense + (1 - DENSE_WEIGHT) * standardised(bm25)


def standardised(scores: Floats) -> Floats:
    """Return the scores with mean 0 and deviation 1; all 0 when they hardly differ."""
    deviation = scores.std()
    return (scores - scores.mean()) / deviation if deviation > FLAT else np.zeros(len(scores))


def hit_view(hit: Hit) -> dict[str, Any]:
    """Return a hit as users see it: where its chunk stands, what it says, and its scores."""
    chunk, cosine = hit.chunk, None if hit.cosine is None else round(hit.cosine, 6)
    return {
        "document_id": chunk.document_id,
        "version": chunk.version,
        "start": chunk.start,
        "end": chunk.end,
        "page": chunk.page,
        "title": chunk.title,
        "source": chunk.source,
        "heading_path": list(chunk.heading_path),
        "text": chunk.text,
        "score": round(hit.score, 6),
        "cosine": cosine,
        "keyword": round(hit.keyword, 6),
    }

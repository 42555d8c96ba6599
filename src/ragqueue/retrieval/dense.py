"""Retrieval by vectors: finds what is said in other words."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ragqueue.embedders.base import Embedder
from ragqueue.indexes.base import Index
from ragqueue.indexes.base import Space as IndexSpace
from ragqueue.records import chunks
from ragqueue.records.chunks import Space
from ragqueue.records.store import Records
from ragqueue.retrieval.base import Retriever
from ragqueue.types import Hit


@dataclass(frozen=True, slots=True)
class Nearest:
    """What a search by vector found."""

    vector: NDArray[np.float32] | None = None  # the question's; None when no space fits the embedder
    found: Sequence[tuple[int, float]] = ()  # (chunk number, cosine), best first
    generations: frozenset[str] = frozenset()  # whose vectors are comparable with the question's


class DenseRetriever(Retriever):
    """Ranks by cosine; collections whose vectors another embedder made are left out."""

    def __init__(self, records: Records, embedder: Embedder, index: Index) -> None:
        self._records, self._embedder, self._index = records, embedder, index

    async def retrieve(self, tenant: str, question: str, *, collections: Sequence[str] | None = None, limit: int = 10) -> list[Hit]:
        spaces = await self._records.read(chunks.spaces_of, tenant, collections)
        # More than asked for: the index may still hold chunks of documents that were hidden a moment ago.
        cosines = dict((await self.nearest(tenant, question, spaces, 2 * limit + 20)).found)
        loaded = await self._records.read(chunks.load, tenant, list(cosines))
        return [Hit(chunk, cosines[chunk.number], cosine=cosines[chunk.number]) for chunk in loaded[:limit]]

    async def nearest(self, tenant: str, question: str, spaces: Sequence[Space], limit: int) -> Nearest:
        """Return the nearest chunks of the spaces that fit the embedder, at most `limit`. Raises Unavailable."""
        spoken = [space for space in spaces if fits(space.generation, self._embedder)]
        if not spoken:
            return Nearest()
        vector = (await self._embedder.embed([question]))[0]
        lists = await asyncio.gather(*(self._index.search(IndexSpace(tenant, *space), vector, limit) for space in spoken))
        found = sorted((pair for pairs in lists for pair in pairs), key=lambda pair: (-pair[1], pair[0]))[:limit]
        return Nearest(vector, found, frozenset(space.generation for space in spoken))


def fits(generation: str, embedder: Embedder) -> bool:
    """Say whether the vectors of a generation are this embedder's: it is named "<embedder>" or "<embedder>/<chunking>"."""
    return generation == embedder.name or generation.startswith(f"{embedder.name}/")

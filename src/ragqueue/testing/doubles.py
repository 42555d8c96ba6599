"""Small real adapters for tests: no model, no file, no service."""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ragqueue.embedders.base import Embedder
from ragqueue.indexes.base import Index, Space


class HashEmbedder(Embedder):
    """Embeds texts by the words in them, each a direction that its hash draws: texts that share words are near."""

    name, dimensions, languages, abstain_below, weak_below = "hash", 256, None, 0.1, 0.5

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in set(re.findall(r"\w+", text.lower())) or {text}:
                vector += np.random.default_rng(crc32(word.encode())).normal(size=self.dimensions).astype(np.float32)
            vector /= np.linalg.norm(vector)
        return vectors


class MemoryIndex(Index):
    """Finds the nearest vectors by looking at all of them."""

    def __init__(self) -> None:
        self._spaces: dict[Space, dict[int, NDArray[np.float32]]] = defaultdict(dict)

    async def upsert(self, space: Space, numbers: Sequence[int], vectors: NDArray[np.float32]) -> None:
        self._spaces[space].update(zip(numbers, vectors.copy(), strict=True))

    async def search(
        self, space: Space, vector: NDArray[np.float32], limit: int, *, allowed: Collection[int] | None = None
    ) -> list[tuple[int, float]]:
        held = self._spaces[space]
        hits = [(number, float(held[number] @ vector)) for number in sorted(held) if allowed is None or number in allowed]
        return sorted(hits, key=lambda hit: -hit[1])[:limit]

    async def delete(self, space: Space, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._spaces[space].pop(number, None)

    async def count(self, space: Space) -> int:
        return len(self._spaces[space])

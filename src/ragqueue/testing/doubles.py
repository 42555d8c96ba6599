"""Small real adapters for tests: no model, no file, no service."""

import hashlib
import re
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from ragqueue.embedders.base import Embedder
from ragqueue.errors import ConfigError
from ragqueue.indexes.base import Index, Space


class HashEmbedder(Embedder):
    """Embeds texts by the words in them, each in a place and with a sign of its hash: texts that share words are near."""

    languages = None
    abstain_below = 0.1
    weak_below = 0.5

    def __init__(self, *, dimensions: int = 256) -> None:
        self.dimensions = dimensions
        self.name = f"hash-{dimensions}"

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            # A text without words is a word too: every vector has the length 1.
            for word in set(re.findall(r"\w+", text.lower())) or {text}:
                drawn = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
                vector[(drawn >> 1) % self.dimensions] += 1 if drawn & 1 else -1
            if not vector.any():  # two words took each other away
                vector[0] = 1
            vector /= np.linalg.norm(vector)
        return vectors


class MemoryIndex(Index):
    """Finds the nearest vectors by looking at all of them."""

    def __init__(self) -> None:
        self._spaces: dict[Space, dict[int, NDArray[np.float32]]] = {}

    async def upsert(self, space: Space, numbers: Sequence[int], vectors: NDArray[np.float32]) -> None:
        self._spaces.setdefault(space, {}).update(zip(map(int, numbers), np.array(vectors, np.float32), strict=True))

    async def search(
        self, space: Space, vector: NDArray[np.float32], limit: int, *, allowed: Collection[int] | None = None
    ) -> list[tuple[int, float]]:
        held = self._spaces.get(space, {})
        numbers = sorted(held.keys() if allowed is None else held.keys() & set(allowed))
        if not numbers:
            return []
        stored = np.stack([held[number] for number in numbers])
        if stored.shape[1] != len(vector):
            raise ConfigError(f"a vector of {len(vector)} dimensions does not fit a space of {stored.shape[1]}")
        scores = stored @ vector
        best = np.argsort(-scores, kind="stable")[: max(limit, 0)]
        return [(numbers[at], float(scores[at])) for at in best]

    async def delete(self, space: Space, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._spaces.get(space, {}).pop(int(number), None)

    async def count(self, space: Space) -> int:
        return len(self._spaces.get(space, {}))

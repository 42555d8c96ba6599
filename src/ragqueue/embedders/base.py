"""The port to an embedder: texts become unit vectors whose dot product is their likeness."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Embedder(ABC):
    name: str  # identifies model and weights; vectors of two names never mix
    dimensions: int
    languages: frozenset[str] | None  # ISO 639-1 codes that it speaks; None: all
    abstain_below: float  # cosine of the passage + cosine of its best sentence: below, the sources do not hold it
    weak_below: float  # below, the answer is given as weak

    @abstractmethod
    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit vector a text, in order, shape (len(texts), dimensions). Raises Unavailable."""


class RememberingEmbedder(Embedder):
    """Keeps the vectors of the last texts, so that judging and answering a question embed each text once between them."""

    def __init__(self, embedder: Embedder, *, limit: int = 2048) -> None:
        self.name, self.dimensions, self.languages = (
            embedder.name,
            embedder.dimensions,
            embedder.languages,
        )
        self.abstain_below, self.weak_below = embedder.abstain_below, embedder.weak_below
        self._embedder, self._limit = embedder, limit
        self._vectors: dict[str, NDArray[np.float32]] = {}  # what was used last is last

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        known = {
            text: self._vectors.pop(text) for text in dict.fromkeys(texts) if text in self._vectors
        }
        if missing := [text for text in dict.fromkeys(texts) if text not in known]:
            known |= zip(missing, await self._embedder.embed(missing), strict=True)
        self._vectors |= known
        for text in list(self._vectors)[: -self._limit]:
            del self._vectors[text]
        return np.array([known[text] for text in texts], np.float32).reshape(
            len(texts), self.dimensions
        )

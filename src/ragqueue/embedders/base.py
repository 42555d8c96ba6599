"""The port to an embedder: texts become unit vectors whose dot product is their likeness."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Embedder(ABC):
    """Turns texts into vectors."""

    name: str  # identifies model and weights; vectors of two names never mix
    dimensions: int
    languages: frozenset[str] | None  # ISO 639-1 codes that it speaks; None: all
    # Cosine of the passage + cosine of its best sentence: below, the sources do not hold it.
    abstain_below: float
    weak_below: float  # below, the answer is given as weak

    @abstractmethod
    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit vector a text, in order, shape (len(texts), dimensions).

        Raises Unavailable.
        """


class RememberingEmbedder(Embedder):
    """Keeps the vectors of the last texts.

    Judging and answering a question embed each text once between them.
    """

    def __init__(self, embedder: Embedder, *, limit: int = 2048) -> None:
        self.name = embedder.name
        self.dimensions = embedder.dimensions
        self.languages = embedder.languages
        self.abstain_below = embedder.abstain_below
        self.weak_below = embedder.weak_below
        self._embedder = embedder
        self._limit = limit
        self._vectors: dict[str, NDArray[np.float32]] = {}  # what was used last is last

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        distinct = dict.fromkeys(texts)
        vectors = {text: self._vectors.pop(text) for text in distinct if text in self._vectors}
        missing = [text for text in distinct if text not in vectors]
        if missing:
            vectors |= zip(missing, await self._embedder.embed(missing), strict=True)
        self._vectors |= vectors
        self._forget_oldest()
        rows = [vectors[text] for text in texts]
        return np.array(rows, np.float32).reshape(len(texts), self.dimensions)

    def _forget_oldest(self) -> None:
        for text in list(self._vectors)[: -self._limit]:
            del self._vectors[text]

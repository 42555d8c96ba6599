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

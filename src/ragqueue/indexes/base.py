"""The port to a vector index: vectors by chunk number.

There is one space for each (tenant, collection, generation).
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from ragqueue.types import Space

Vectors = NDArray[np.float32]


class Index(ABC):
    """Finds the nearest vectors; holds no text.

    Higher scores are nearer, ties go to the lower number.
    """

    @abstractmethod
    async def upsert(self, space: Space, numbers: Sequence[int], vectors: Vectors) -> None:
        """Store or replace the vectors of these chunks. Raises Unavailable."""

    @abstractmethod
    async def search(
        self, space: Space, vector: Vectors, limit: int, *, allowed: Collection[int] | None = None
    ) -> list[tuple[int, float]]:
        """Return at most `limit` (chunk number, cosine), best first.

        When `allowed` is given, only these chunks are searched.
        """

    @abstractmethod
    async def delete(self, space: Space, numbers: Sequence[int]) -> None:
        """Forget these chunks; unknown numbers are no error. Raises Unavailable."""

    @abstractmethod
    async def count(self, space: Space) -> int:
        """Return how many chunks the space holds."""

    async def warm(self) -> None:  # noqa: B027 - most have nothing to load
        """Load what the first search would wait for; the process forks no more."""

    async def compact(self, space: Space) -> None:  # noqa: B027 - most keep no files of their own
        """Make sure that no file of the index's own holds what was deleted.

        Raises StoreFull, Unavailable.
        """

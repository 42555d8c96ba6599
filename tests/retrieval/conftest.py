"""An embedder that hears topics, an index that looks at everything, and a library."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ragqueue.embedders.base import Embedder
from ragqueue.indexes.base import Index
from ragqueue.records.store import Records
from ragqueue.types import Space
from tests.library import GENERATION, open_records

TOPICS = (("cat", "kitten", "feline"), ("dog", "puppy", "hound"), ("ship", "boat", "vessel"))


def embed(text: str) -> NDArray[np.float32]:
    words = text.lower().split()
    vector = np.array(
        [sum(words.count(word) for word in topic) for topic in TOPICS] + [0.1], dtype=np.float32
    )
    unit: NDArray[np.float32] = vector / np.linalg.norm(vector)
    return unit


class TopicEmbedder(Embedder):
    name = GENERATION
    dimensions = len(TOPICS) + 1
    languages = None
    abstain_below = weak_below = 0.0

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([embed(text) for text in texts])


class ScanIndex(Index):
    def __init__(self) -> None:
        self.held: dict[Space, dict[int, NDArray[np.float32]]] = {}

    async def upsert(
        self, space: Space, numbers: Sequence[int], vectors: NDArray[np.float32]
    ) -> None:
        self.held.setdefault(space, {}).update(zip(numbers, vectors, strict=True))

    async def search(
        self,
        space: Space,
        vector: NDArray[np.float32],
        limit: int,
        *,
        allowed: Collection[int] | None = None,
    ) -> list[tuple[int, float]]:
        scored = [
            (number, float(held @ vector)) for number, held in self.held.get(space, {}).items()
        ]
        return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:limit]

    async def delete(self, space: Space, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.held.get(space, {}).pop(number, None)

    async def count(self, space: Space) -> int:
        return len(self.held.get(space, {}))


@pytest.fixture(autouse=True)
def _on_each_database(each_database: None) -> None:
    """Run every test of this folder on each database."""


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    opened = open_records(tmp_path)
    yield opened
    opened.close()

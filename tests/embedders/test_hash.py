"""The embedder that tests use instead of a model."""

import numpy as np
import pytest

from ragqueue.embedders.base import Embedder
from ragqueue.testing.contracts.vectors import EmbedderContract
from ragqueue.testing.doubles import HashEmbedder


class TestHashEmbedder(EmbedderContract):
    @pytest.fixture
    async def embedder(self) -> Embedder:
        return HashEmbedder()


async def test_every_process_makes_the_same_vector() -> None:
    [vector] = await HashEmbedder().embed(["one two three"])

    assert np.argsort(vector)[:3].tolist() == [20, 250, 224]  # Python's own hash would differ from run to run

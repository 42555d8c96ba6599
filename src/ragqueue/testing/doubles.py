"""A small real adapter for tests: no model, no file, no service."""

import re
from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ragqueue.embedders.base import Embedder


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

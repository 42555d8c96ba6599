"""How far the sources carry an answer.

That is judged by what was found before it is written, and by its citations afterwards.
"""

from collections.abc import Collection, Sequence

from ragqueue.embedders.base import Embedder
from ragqueue.language.detect import detect
from ragqueue.language.evidence import PASSAGES, weigh
from ragqueue.types import Citation, Hit

MEANINGS = {  # of an answer's `grounding`
    "grounded": "each of its markers names a passage that carries the claim",
    "partial": "a marker names no passage, or one that does not carry the claim",
    "weak": "the passages that were found say little about the question",
    "uncited": "no passage that it names carries any of its claims",
    "abstained": "the sources do not hold an answer, and none was written",
}
LEVELS = ("abstained", "weak", "grounded")
# BM25 over its bound, where no embedder speaks. Below the first limit the answer is refused: that
# refuses 94 % of the questions on another subject and loses none that the sources answer.
# From the second on it is grounded: that keeps 95 % of the questions that the sources answer.
KEYWORD_ABSTAIN = 0.15
KEYWORD_WEAK = 0.25


async def judge(
    question: str, hits: Sequence[Hit], embedder: Embedder | None, *, sentences: bool = True
) -> str:
    """Return "grounded", "weak" or "abstained": the best that is known of a passage.

    It is known by cosines, or by keywords where no embedder speaks. Without `sentences` the
    passage counts twice (AUC 0.88, not 0.91): they cost 0.1 s of CPU, which an extractive answer
    spends anyway.
    """
    unheard: list[Hit] = []
    cosines: dict[int, float] = {}  # of the first passages, by their places in `hits`
    for i, hit in enumerate(hits):
        if embedder is None or hit.cosine is None or not _speaks(embedder, hit):
            unheard.append(hit)
        elif i < PASSAGES:
            cosines[i] = hit.cosine
    by_keywords = _by_keywords(unheard)
    if embedder is None or not cosines:
        return by_keywords

    best = max(cosines, key=lambda i: cosines[i])
    passage = cosines[best]
    sentence = passage
    if sentences:
        of_sentences = await _cosines_of_sentences(question, hits[:PASSAGES], best, embedder)
        sentence = max(of_sentences, default=passage)
    nearness = passage + sentence
    by_cosines = _verdict(nearness, embedder.abstain_below, embedder.weak_below)
    return max(by_keywords, by_cosines, key=LEVELS.index)


def settle(judged: str, citations: Sequence[Citation], invalid: Collection[int]) -> str:
    """Return the grounding of a written answer: what was judged before, corrected by what it cites.

    `invalid` are the numbers in it that name no passage.
    """
    supported = [citation.supported for citation in citations]
    if judged == "abstained":
        return "abstained"
    if not any(supported):
        return "uncited"
    if judged == "weak":
        return "weak"
    if invalid or not all(supported):
        return "partial"
    return "grounded"


def _speaks(embedder: Embedder, hit: Hit) -> bool:
    """Tell whether the embedder speaks the language of a passage."""
    if embedder.languages is None:
        return True
    language = hit.chunk.language or detect(hit.chunk.text)
    return language in embedder.languages


def _by_keywords(hits: Sequence[Hit]) -> str:
    best = max((hit.keyword for hit in hits), default=0.0)
    return _verdict(best, KEYWORD_ABSTAIN, KEYWORD_WEAK)


async def _cosines_of_sentences(
    question: str, hits: Sequence[Hit], place: int, embedder: Embedder
) -> list[float]:
    """Return the cosines of the sentences of the passage at this place in `hits`."""
    # All are weighed, as an extractive answer weighs them: each text is embedded once for both.
    texts = [hit.chunk.text for hit in hits]
    cosines = []
    for sentence in await weigh(question, texts, embedder.embed, embedder.languages):
        if sentence.passage == place and sentence.cosine is not None:
            cosines.append(sentence.cosine)
    return cosines


def _verdict(nearness: float, abstain_below: float, weak_below: float) -> str:
    if nearness < abstain_below:
        return "abstained"
    if nearness < weak_below:
        return "weak"
    return "grounded"

"""How far the sources carry an answer: judged by what was found before it is written, and by its citations afterwards."""

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
# BM25 over its bound, where no embedder speaks.
KEYWORD_ABSTAIN = (
    0.15  # refuses 94 % of the questions on another subject and loses none that the sources answer
)
KEYWORD_WEAK = 0.25  # keeps 95 % of the questions that the sources answer


async def judge(
    question: str, hits: Sequence[Hit], embedder: Embedder | None, *, sentences: bool = True
) -> str:
    """Return "grounded", "weak" or "abstained": the best that is known of a passage, by cosines, or by keywords where no embedder speaks.

    Without `sentences` the passage counts twice (AUC 0.88, not 0.91): they cost 0.1 s of CPU, which an extractive answer spends anyway.
    """
    heard = {at for at, hit in enumerate(hits) if _hears(embedder, hit)}
    by_words = [hit.keyword for at, hit in enumerate(hits) if at not in heard]
    level = _level(max(by_words, default=0.0), KEYWORD_ABSTAIN, KEYWORD_WEAK)
    cosines = {at: hits[at].cosine or 0.0 for at in heard if at < PASSAGES}
    if embedder is None or not cosines:
        return LEVELS[level]
    best = max(sorted(cosines), key=lambda at: cosines[at])
    passage = sentence = cosines[best]
    if sentences:
        weighed = await weigh(
            question,
            [hit.chunk.text for hit in hits[:PASSAGES]],
            embedder.embed,
            embedder.languages,
        )
        sentence = max(
            (one.cosine for one in weighed if one.passage == best and one.cosine is not None),
            default=passage,
        )
    return LEVELS[
        max(level, _level(passage + sentence, embedder.abstain_below, embedder.weak_below))
    ]


def _hears(embedder: Embedder | None, hit: Hit) -> bool:
    """Tell whether the cosine of a passage says something."""
    if embedder is None or hit.cosine is None:
        return False
    return (
        embedder.languages is None
        or (hit.chunk.language or detect(hit.chunk.text)) in embedder.languages
    )


def _level(near: float, abstain_below: float, weak_below: float) -> int:
    if near < abstain_below:
        return 0
    return 1 if near < weak_below else 2


def settle(found: str, citations: Sequence[Citation], invalid: Collection[int]) -> str:
    """Return the grounding of a written answer: what was judged before (`found`), corrected by what it cites."""
    if found == "abstained":
        return "abstained"
    if not any(citation.supported for citation in citations):
        return "uncited"
    if found == "weak":
        return "weak"
    if invalid or not all(citation.supported for citation in citations):
        return "partial"
    return "grounded"

"""The judgement before an answer, and the embedder that remembers."""

from collections.abc import Sequence

import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray

from ragqueue.answering.grounding import KEYWORD_ABSTAIN, KEYWORD_WEAK, judge, settle
from ragqueue.embedders.base import Embedder, RememberingEmbedder
from ragqueue.generators.extractive import ExtractiveGenerator
from ragqueue.testing.contracts.generators import make_hits, text_of
from ragqueue.types import Citation, Hit, Prompt

QUESTION = "lease"


class FixedEmbedder(Embedder):
    """Gives sentences with the question's word the cosine 0.6 with it, others 0."""

    name, dimensions = "fixed", 2
    languages: frozenset[str] | None = None
    abstain_below, weak_below = 0.6, 1.05

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += texts
        return np.array([self.vector_of(text) for text in texts], np.float32)

    def vector_of(self, text: str) -> tuple[float, float]:
        if text == QUESTION:
            return 1, 0
        if "lease" in text:
            return 0.6, 0.8
        return 0, 1


def hits_with(
    cosine: float | None,
    keyword: float = 0.0,
    text: str = "The lease lasts ten seconds. Rings may arrive twice.",
) -> list[Hit]:
    return [structs.replace(hit, cosine=cosine, keyword=keyword) for hit in make_hits(text)]


@pytest.mark.parametrize(
    ("cosine", "grounding"),
    [(0.5, "grounded"), (0.4, "weak"), (0.05, "weak"), (-0.05, "abstained")],
)
async def test_the_cosines_of_passage_and_best_sentence_decide(
    cosine: float, grounding: str
) -> None:
    assert await judge(QUESTION, hits_with(cosine), FixedEmbedder()) == grounding


async def test_the_best_of_the_first_passages_counts() -> None:
    hits = [*hits_with(0.0, text="Rings may arrive twice."), *hits_with(0.5)]

    assert await judge(QUESTION, hits, FixedEmbedder()) == "grounded"


@pytest.mark.parametrize(
    ("keyword", "grounding"),
    [(KEYWORD_WEAK, "grounded"), (KEYWORD_ABSTAIN, "weak"), (KEYWORD_ABSTAIN - 0.01, "abstained")],
)
async def test_keywords_decide_without_an_embedder(keyword: float, grounding: str) -> None:
    assert await judge(QUESTION, hits_with(None, keyword), None) == grounding


async def test_keywords_decide_in_a_language_that_the_embedder_does_not_speak() -> None:
    embedder = FixedEmbedder()
    embedder.languages = frozenset({"en"})
    german = "Der Mieter zahlt am Anfang eines jeden Monats die vereinbarte Miete an den Vermieter."

    grounding = await judge("Wann zahlt der Mieter?", hits_with(0.0, 0.5, german), embedder)

    assert grounding == "grounded"


@pytest.mark.parametrize(("keyword", "grounding"), [(0.5, "grounded"), (0.0, "abstained")])
@pytest.mark.parametrize("sentences", [True, False])
async def test_a_passage_that_the_embedder_cannot_read_is_judged_by_keywords_beside_others(
    keyword: float, grounding: str, sentences: bool
) -> None:
    embedder = FixedEmbedder()
    embedder.languages = frozenset({"en"})
    german = "Der Mieter zahlt am Anfang eines jeden Monats die vereinbarte Miete an den Vermieter."
    hits = [*hits_with(0.9, keyword, german), *hits_with(0.0, text="Rings may arrive twice.")]

    assert await judge(QUESTION, hits, embedder, sentences=sentences) == grounding


async def test_keywords_decide_when_no_hit_has_a_vector() -> None:
    assert await judge(QUESTION, hits_with(None, 0.5), FixedEmbedder()) == "grounded"


async def test_a_sentence_of_another_passage_does_not_speak_for_the_best() -> None:
    hits = [*hits_with(0.5, text="Rings may arrive twice."), *hits_with(0.1)]

    assert await judge(QUESTION, hits, FixedEmbedder()) == "abstained"  # 0.5, and not 1.1


@pytest.mark.parametrize("embedder", [None, FixedEmbedder()])
async def test_no_hits_hold_no_answer(embedder: Embedder | None) -> None:
    assert await judge(QUESTION, [], embedder) == "abstained"


async def test_judging_and_answering_embed_each_text_once() -> None:
    inner = FixedEmbedder()
    embedder, hits = RememberingEmbedder(inner), hits_with(0.5)

    await judge(QUESTION, hits, embedder)
    await text_of(
        ExtractiveGenerator(embedder.embed),
        Prompt(question=QUESTION, hits=hits, system="", user=""),
    )

    assert len(inner.asked) == len(set(inner.asked)) == 3


async def test_remembered_vectors_come_in_the_order_asked() -> None:
    embedder = RememberingEmbedder(FixedEmbedder())
    await embedder.embed(["a lease"])

    vectors = await embedder.embed([QUESTION, "a lease", "x", QUESTION])

    assert vectors.tolist() == pytest.approx(np.array([(1, 0), (0.6, 0.8), (0, 1), (1, 0)]))


async def test_the_longest_unused_vector_is_forgotten() -> None:
    inner = FixedEmbedder()
    embedder = RememberingEmbedder(inner, limit=2)

    for texts in (["a", "b"], ["a"], ["c"], ["a"], ["b"]):
        await embedder.embed(texts)

    assert inner.asked == ["a", "b", "c", "b"]


async def test_no_texts_are_no_vectors() -> None:
    assert (await RememberingEmbedder(FixedEmbedder()).embed([])).shape == (0, 2)


YES, NO = (
    Citation(
        n=1, document_id="d", version=1, start=0, end=1, page=None, quote="x", supported=supported
    )
    for supported in (True, False)
)


@pytest.mark.parametrize(
    ("found", "citations", "invalid", "grounding"),
    [
        ("grounded", [YES], [], "grounded"),
        ("grounded", [YES, NO], [], "partial"),
        ("grounded", [YES], [9], "partial"),
        ("grounded", [], [], "uncited"),
        ("grounded", [NO], [], "uncited"),
        ("weak", [YES], [], "weak"),
        ("weak", [YES, NO], [9], "weak"),
        ("weak", [], [], "uncited"),
        ("abstained", [], [], "abstained"),
    ],
)
def test_the_citations_settle_the_grounding(
    found: str, citations: list[Citation], invalid: list[int], grounding: str
) -> None:
    assert settle(found, citations, invalid) == grounding

"""The extractive generator and the sentences that it chooses from."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from ragqueue.errors import GenerationFailed
from ragqueue.generators.base import Generator
from ragqueue.generators.extractive import ExtractiveGenerator
from ragqueue.language.sentences import SENTENCES, candidates, weigh
from ragqueue.testing.contracts.generators import TEXTS, GeneratorContract, collect, make_hits, make_prompt, text_of
from ragqueue.types import Prompt


async def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Letter counts: near enough to meaning for a test."""
    counts = np.array([[text.lower().count(letter) + 0.01 for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts], np.float32)
    return np.asarray(counts / np.linalg.norm(counts, axis=1, keepdims=True), np.float32)


def prompt_over(*texts: str, question: str = "How many seconds does a lease last?", prefix: str = "") -> Prompt:
    return Prompt(question, make_hits(*texts), "", "", prefix)


class TestExtractiveByKeywords(GeneratorContract):
    @pytest.fixture
    def generator(self) -> Generator:
        return ExtractiveGenerator()


class TestExtractiveByVectors(GeneratorContract):
    @pytest.fixture
    def generator(self) -> Generator:
        return ExtractiveGenerator(embed)


async def test_three_sentences_are_quoted_in_reading_order_each_with_its_passage() -> None:
    text = await text_of(ExtractiveGenerator(), make_prompt())

    assert text.count("[") == 3
    assert "When its worker falls silent, another worker claims the job and goes on. [2]" in text
    assert text.index("[2]") < text.rindex("[2]") or text.index("[1]") < text.index("[2]")


async def test_every_sentence_stands_in_its_passage() -> None:
    *deltas, _ = await collect(ExtractiveGenerator(embed), make_prompt())

    for delta in deltas:
        quote, _, number = delta.text.strip().rpartition(" ")
        assert quote in TEXTS[int(number[1:-1]) - 1]


async def test_headings_code_and_tables_are_not_quoted() -> None:
    code = "```\nx = 1\n\nprint how many seconds the lease lasts\n```"
    text = f"# A lease lasts seconds\n\n{code}\n\n| lease | seconds |\n\nA lease lasts ten of them before it ends."

    answer = await text_of(ExtractiveGenerator(), prompt_over(text))

    assert answer == "A lease lasts ten of them before it ends. [1]"


async def test_a_list_item_is_quoted_without_its_bullet() -> None:
    answer = await text_of(ExtractiveGenerator(), prompt_over("- A lease lasts ten seconds.\n- Workers beat each third second."))

    assert answer == "A lease lasts ten seconds. [1] Workers beat each third second. [1]"


async def test_a_passage_of_code_alone_is_quoted_all_the_same() -> None:
    answer = await text_of(ExtractiveGenerator(), prompt_over("```\nlease_seconds = 10\n```"))

    assert "lease_seconds = 10" in answer


async def test_a_sentence_in_two_passages_is_quoted_once() -> None:
    answer = await text_of(ExtractiveGenerator(), prompt_over("A lease lasts ten seconds.", "A lease lasts ten seconds."))

    assert answer == "A lease lasts ten seconds. [1]"


async def test_bracketed_numbers_of_the_source_are_no_markers_of_ours() -> None:
    answer = await text_of(ExtractiveGenerator(), prompt_over("A lease lasts ten seconds,[7] as measured."))

    assert answer == r"A lease lasts ten seconds,\[7] as measured. [1]"


async def test_chinese_sentences_are_quoted() -> None:
    text = "租约持续十秒钟。工人沉默时，另一个工人接手。"

    answer = await text_of(ExtractiveGenerator(), prompt_over(text, question="租约持续多久？"))

    assert answer == "租约持续十秒钟。 [1] 工人沉默时，另一个工人接手。 [1]"


async def test_passages_without_a_word_are_a_failure_that_a_retry_does_not_help() -> None:
    with pytest.raises(GenerationFailed) as caught:
        await collect(ExtractiveGenerator(), prompt_over("--- 12 ---"))

    assert not caught.value.retryable


async def test_a_language_that_the_embedder_does_not_speak_is_judged_by_keywords() -> None:
    german = "Ein Vertrag dauert zehn Jahre und endet danach von selbst. Der Mieter zahlt am Anfang eines jeden Monats die Miete."

    sentences = await weigh("Wann zahlt der Mieter?", [german], embed, frozenset({"en"}))

    assert [sentence.cosine for sentence in sentences] == [None, None]
    assert max(sentences, key=lambda sentence: sentence.score).text.startswith("Der Mieter")


async def test_a_passage_in_another_language_that_gives_no_sentence_leaves_the_cosines_on() -> None:
    english = " ".join(f"A lease of the tenant number {n} lasts ten seconds." for n in range(30))
    german = "Der Vertrag dauert zehn Jahre und endet danach von selbst, wenn ihn niemand verlängert."

    sentences = await weigh("How long does a lease last?", [english, german], embed, frozenset({"en"}))

    assert {sentence.passage for sentence in sentences} == {0}
    assert all(sentence.cosine is not None for sentence in sentences)


async def test_at_most_24_sentences_are_embedded_those_with_the_words_of_the_question_among_them() -> None:
    text = " ".join(f"Here is a filler sentence about matter {n}." for n in range(60)) + " A lease lasts ten seconds."
    seen: list[str] = []

    async def watch(texts: Sequence[str]) -> NDArray[np.float32]:
        seen.extend(texts)
        return await embed(texts)

    await weigh("How long does a lease last?", [text], watch)

    assert len(seen) == 1 + SENTENCES
    assert "A lease lasts ten seconds." in seen


def test_a_question_in_the_text_is_not_an_answer() -> None:
    found = candidates(0, "How long does a lease last? It lasts ten seconds in all cases.")

    assert [sentence.text for sentence in found] == ["It lasts ten seconds in all cases."]

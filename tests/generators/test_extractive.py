"""The extractive generator and the sentences that it chooses from."""

from collections.abc import Sequence

import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray

from ragqueue.answering.citations import CitationScanner
from ragqueue.errors import GenerationFailed
from ragqueue.generators.base import Generator
from ragqueue.generators.extractive import ExtractiveGenerator
from ragqueue.language.evidence import SENTENCES, candidates, weigh
from ragqueue.language.markup import LONGEST_BLOCK
from ragqueue.testing.contracts.generators import (
    TEXTS,
    GeneratorContract,
    collect,
    make_hits,
    make_prompt,
    text_of,
)
from ragqueue.types import Hit, Prompt


async def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Letter counts: near enough to meaning for a test."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    rows = [[text.lower().count(letter) + 0.01 for letter in letters] for text in texts]
    counts = np.array(rows, np.float32)
    return np.asarray(counts / np.linalg.norm(counts, axis=1, keepdims=True), np.float32)


def prompt_over(*texts: str, question: str = "How many seconds does a lease last?") -> Prompt:
    return asking(make_hits(*texts), question)


def asking(hits: list[Hit], question: str = "How many seconds does a lease last?") -> Prompt:
    return Prompt(question=question, hits=hits, system="", user="")


class TestExtractiveByKeywords(GeneratorContract):
    @pytest.fixture
    def generator(self) -> Generator:
        return ExtractiveGenerator()


class TestExtractiveByVectors(GeneratorContract):
    @pytest.fixture
    def generator(self) -> Generator:
        return ExtractiveGenerator(embed)


async def test_sentences_near_the_best_are_quoted_in_reading_order_each_with_its_passage() -> None:
    texts = (
        "Here is the lease of workers.",
        "A lease lasts ten seconds.",
        "The lease of a worker lasts ten seconds or more.",
    )

    prompt = prompt_over(*texts, question="How long does a lease last?")
    answer = await text_of(ExtractiveGenerator(), prompt)

    quotes = [
        "A lease lasts ten seconds. [2]",
        "The lease of a worker lasts ten seconds or more. [3]",
    ]
    assert answer == " ".join(quotes)


async def test_a_sentence_far_from_the_best_is_no_part_of_the_answer() -> None:
    answer = await text_of(ExtractiveGenerator(), make_prompt())

    assert answer == "When its worker falls silent, another worker claims the job and goes on. [2]"


async def test_more_than_three_quotes_are_never_given() -> None:
    kinds = ("alpha", "beta", "gamma", "delta")
    text = " ".join(f"A lease of kind {kind} lasts ten seconds." for kind in kinds)

    answer = await text_of(ExtractiveGenerator(), prompt_over(text))

    assert answer.count("[1]") == 3


async def test_every_sentence_stands_in_its_passage() -> None:
    *deltas, _ = await collect(ExtractiveGenerator(embed), make_prompt())

    for delta in deltas:
        quote, _, number = delta.text.strip().rpartition(" ")
        assert quote in TEXTS[int(number[1:-1]) - 1]


async def test_headings_code_and_tables_are_not_quoted() -> None:
    code = "```\nx = 1\n\nprint how many seconds the lease lasts\n```"
    text = (
        f"# A lease lasts seconds\n\n{code}\n\n| lease | seconds |\n\n"
        "A lease lasts ten of them before it ends."
    )

    answer = await text_of(ExtractiveGenerator(), prompt_over(text))

    assert answer == "A lease lasts ten of them before it ends. [1]"


async def test_a_list_item_is_quoted_without_its_bullet() -> None:
    text = "- A lease lasts ten seconds.\n- It is said: a lease lasts seconds."

    answer = await text_of(ExtractiveGenerator(), prompt_over(text))

    assert answer == "A lease lasts ten seconds. [1] It is said: a lease lasts seconds. [1]"


ANNOUNCED = "Set the seconds that a lease lasts like this:"
CODE = "```python\nlease: int = 10\nrows = [1]\n```"


@pytest.mark.parametrize(
    "block",
    [
        CODE,
        "~~~\nlease = 10\n\nbeat = 3\n~~~",
        "    lease = 10\n\n    beat = 3",
        "* `lease`: ten\n  in all\n\n* `beat`: three",
        "1. Open it\n2. Set it",
        "| lease | 10 |\n|---|---|\n| beat | 3 |",
        "lease = 10",
        f"{CODE}\n\ninstead of:\n\n```\nlease = 3\n```",
    ],
)
async def test_a_sentence_brings_what_it_announces(block: str) -> None:
    text = f"# Leases\n\n{ANNOUNCED}\n\n{block}\n\nAnother thing is said here."

    answer = await text_of(ExtractiveGenerator(), prompt_over(text))

    assert answer == f"{ANNOUNCED}\n\n{block}\n\n[1]"


async def test_an_announced_block_is_one_supported_citation_of_an_exact_quote() -> None:
    hits = make_hits(f"{ANNOUNCED}\n\n{CODE}\n\nAnother thing is said here.")
    scanner = CitationScanner(hits)

    answer = await text_of(ExtractiveGenerator(), asking(hits))
    list(scanner.feed(answer, last=True))

    (citation,) = scanner.citations
    assert citation.quote == f"{ANNOUNCED}\n\n{CODE}"
    assert citation.supported
    assert scanner.invalid == []
    assert (citation.start, citation.end) == (100, 100 + len(citation.quote))


async def test_what_is_announced_may_begin_the_next_passage_of_the_document() -> None:
    block = f"{CODE}\n\nAnother thing is said here."
    first, second = make_hits(f"About leases. {ANNOUNCED}", block)
    start = first.chunk.end + 2
    chunk = structs.replace(second.chunk, document_id="d1", start=start, end=start + len(block))
    follows = structs.replace(second, chunk=chunk)

    answer = await text_of(ExtractiveGenerator(), asking([follows, first]))
    elsewhere = await text_of(ExtractiveGenerator(), asking([second, first]))

    assert answer == f"{ANNOUNCED} [2]\n\n{CODE}\n\n[1]"
    assert ANNOUNCED not in elsewhere


async def test_a_fence_that_ends_in_another_passage_is_closed() -> None:
    text = f"{ANNOUNCED}\n\n```\nlease = 10"

    answer = await text_of(ExtractiveGenerator(), prompt_over(text))

    assert answer == f"{text}\n```\n\n[1]"


async def test_an_announced_block_is_bounded_and_ends_with_a_whole_line() -> None:
    rows = "\n".join(f"row number {n} of many" for n in range(500))

    answer = await text_of(ExtractiveGenerator(), prompt_over(f"{ANNOUNCED}\n\n```\n{rows}\n```"))

    assert len(answer) < LONGEST_BLOCK + 100
    assert answer.endswith(" of many\n```\n\n[1]")


@pytest.mark.parametrize(
    "line",
    [
        "# How many seconds a lease lasts",
        "How many seconds a lease lasts\n==============",
        "How many seconds a lease lasts in all",
        "[How many seconds a lease lasts](a.md) | [Lease seconds](b.md) | "
        "[How a lease lasts](c.md)",
        "Lease seconds | Many seconds | Lease lasts",
        "{* ../docs_src/how_many_seconds_a_lease_lasts.py hl[3] *}",
        "{!how many seconds a lease lasts!}",
        "{% include 'how many seconds a lease lasts' %}",
        ".. include:: how many seconds a lease lasts",
        '--8<-- "how many seconds a lease lasts"',
    ],
)
async def test_what_says_nothing_is_never_a_quote(line: str) -> None:
    above = f"{line}\n\nIt is ten of them, as is said."
    within = f"Some words before this. It is ten of them:\n\n{line}\n\nThe end is here."

    answer = await text_of(ExtractiveGenerator(), prompt_over(above))
    wrapped = await text_of(ExtractiveGenerator(), prompt_over(within))

    assert answer == "It is ten of them, as is said. [1]"
    assert line not in wrapped or "{" not in line


async def test_a_title_of_its_passage_is_no_quote() -> None:
    title = "How many seconds a lease lasts."
    (hit,) = make_hits(f"{title}\n\nIt is ten of them.")
    hit = structs.replace(hit, chunk=structs.replace(hit.chunk, title=title))

    answer = await text_of(ExtractiveGenerator(), asking([hit]))

    assert answer == "It is ten of them. [1]"


async def test_a_passage_of_code_alone_is_quoted_all_the_same() -> None:
    code = "```\nlease_seconds = 10\n\nbeat = 3\n```"

    answer = await text_of(ExtractiveGenerator(), prompt_over(f"# Lease\n\n{code}"))

    assert answer == f"{code}\n\n[1]"


async def test_prose_behind_the_end_of_code_that_was_cut_off_is_prose() -> None:
    text = "    print(lease, seconds, many)\n```\n\nA lease lasts ten of them."

    answer = await text_of(ExtractiveGenerator(), prompt_over(text))

    assert answer == "A lease lasts ten of them. [1]"


async def test_a_sentence_in_two_passages_is_quoted_once() -> None:
    text = "A lease lasts ten seconds."

    answer = await text_of(ExtractiveGenerator(), prompt_over(text, text))

    assert answer == f"{text} [1]"


async def test_bracketed_numbers_of_the_source_are_no_markers_of_ours() -> None:
    text = "A lease lasts ten seconds,[7] as measured."

    answer = await text_of(ExtractiveGenerator(), prompt_over(text))

    assert answer == r"A lease lasts ten seconds,\[7] as measured. [1]"


async def test_code_of_the_source_is_quoted_as_it_stands() -> None:
    text = "A lease lasts `rows[1]` or `[2]` seconds [3]."

    answer = await text_of(ExtractiveGenerator(), prompt_over(text))

    assert answer == r"A lease lasts `rows[1]` or `[2]` seconds \[3]. [1]"


async def test_chinese_sentences_are_quoted() -> None:
    text = "租约持续十秒钟。工人沉默时，另一个工人接手。"

    answer = await text_of(ExtractiveGenerator(), prompt_over(text, question="租约持续多久？"))

    assert answer == "租约持续十秒钟。 [1]"


async def test_passages_without_a_word_are_a_failure_that_a_retry_does_not_help() -> None:
    with pytest.raises(GenerationFailed) as caught:
        await collect(ExtractiveGenerator(), prompt_over("--- 12 ---"))

    assert not caught.value.retryable


async def test_a_language_that_the_embedder_does_not_speak_is_judged_by_keywords() -> None:
    german = (
        "Ein Vertrag dauert zehn Jahre und endet danach von selbst. "
        "Der Mieter zahlt am Anfang eines jeden Monats die Miete."
    )

    sentences = await weigh("Wann zahlt der Mieter?", [german], embed, frozenset({"en"}))

    assert [sentence.cosine for sentence in sentences] == [None, None]
    assert max(sentences, key=lambda sentence: sentence.score).text.startswith("Der Mieter")


async def test_a_sentence_that_the_embedder_cannot_judge_takes_no_cosine_from_the_others() -> None:
    english = (
        "A lease of the tenant lasts ten years and ends by itself after that. "
        "The landlord paints the house."
    )
    german = (
        "Der Vertrag dauert zehn Jahre und endet danach von selbst, wenn ihn niemand verlängert."
    )

    sentences = await weigh(
        "How long does a lease last?", [english, german], embed, frozenset({"en"})
    )

    assert [sentence.cosine is None for sentence in sentences] == [False, False, True]
    heard, unheard = sentences[:2], sentences[2]
    average = sum(sentence.cosine or 0 for sentence in heard) / 2
    # It has no word of the question, and an average cosine.
    assert unheard.score == pytest.approx(average)


async def test_a_passage_in_another_language_that_gives_no_sentence_leaves_the_cosines_on() -> None:
    english = " ".join(f"A lease of the tenant number {n} lasts ten seconds." for n in range(30))
    german = (
        "Der Vertrag dauert zehn Jahre und endet danach von selbst, wenn ihn niemand verlängert."
    )

    sentences = await weigh(
        "How long does a lease last?", [english, german], embed, frozenset({"en"})
    )

    assert {sentence.passage for sentence in sentences} == {0}
    assert all(sentence.cosine is not None for sentence in sentences)


async def test_at_most_24_sentences_are_embedded_those_with_words_asked_for_among_them() -> None:
    fillers = [f"Here is a filler sentence about matter {n}." for n in range(60)]
    text = " ".join([*fillers, "A lease lasts ten seconds."])
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

"""The scanner that turns [n] into citations."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragqueue.answering.citations import CitationScanner
from ragqueue.testing.contracts.generators import TEXTS, make_hits
from ragqueue.types import Chunk, Citation, Hit

HITS = make_hits(*TEXTS)


def scan(text: str, hits: list[Hit] = HITS) -> CitationScanner:
    scanner = CitationScanner(hits)
    list(scanner.feed(text, last=True))
    return scanner


def cited(text: str, hits: list[Hit] = HITS) -> list[Citation]:
    return scan(text, hits).citations


def flat(
    pieces: Iterable[tuple[str, Sequence[Citation]]],
) -> tuple[str, list[tuple[int, Citation]]]:
    """Return the text and each citation with its place in it."""
    text, found = "", []
    for shown, citations in pieces:
        text += shown
        found += [(len(text), citation) for citation in citations]
    return text, found


def test_a_marker_cites_the_sentence_that_carries_the_claim() -> None:
    (citation,) = cited("If a ring is lost, the reconciler finds it within two seconds [1].")

    assert citation.quote == "A lost ring is found by the reconciler within two seconds."
    assert citation.supported


def test_a_quote_stands_at_its_offsets() -> None:
    (citation,) = cited("Another worker claims the job [2].")

    start = citation.start - HITS[1].chunk.start
    assert TEXTS[1][start : start + len(citation.quote)] == citation.quote
    assert citation.end - citation.start == len(citation.quote)
    assert (citation.document_id, citation.version, citation.n) == ("d2", 1, 2)


def test_page_and_version_come_from_the_passage() -> None:
    (citation,) = cited(
        "Text [1]",
        [
            Hit(
                chunk=Chunk(
                    number=1, document_id="d", version=7, start=0, end=10, text="Some text.", page=3
                ),
                score=1.0,
            )
        ],
    )

    assert (citation.version, citation.page) == (7, 3)


def test_the_claim_begins_after_the_previous_marker() -> None:
    first, second = cited("Rings may arrive twice [1] while the reconciler is busy [1].")

    assert first.quote == "Rings may arrive twice."
    assert second.quote.startswith("A lost ring")


def test_the_claim_begins_after_the_previous_sentence() -> None:
    (citation,) = cited("A lost ring is found. Rings may arrive twice. [1]")

    assert citation.quote == "Rings may arrive twice."


@pytest.mark.parametrize("markers", ["[1][2]", "[1] [2]", "[1, 2]", "[1,2]", "[1], [2]"])
def test_markers_in_a_row_share_their_claim(markers: str) -> None:
    first, second = cited(f"When a worker falls silent, jobs go on {markers}.")

    quote = "When its worker falls silent, another worker claims the job and goes on."
    assert (first.n, second.n) == (1, 2)
    assert second.quote == quote


def test_a_number_that_names_no_passage_stays_in_the_text_and_is_counted() -> None:
    scanner = CitationScanner(HITS)

    text, found = flat(scanner.feed("Jobs go on [7] and [0], [2, 9].", last=True))

    assert text == "Jobs go on [7] and [0], [2, 9]."
    assert [citation.n for _, citation in found] == [2]
    assert scanner.invalid == [7, 0, 9]


def test_a_claim_that_the_passage_does_not_carry_is_marked() -> None:
    (citation,) = cited("Bananas are rich in potassium and grow in Ecuador [2].")

    assert not citation.supported
    assert citation.quote in TEXTS[1]


def test_a_wrong_number_is_not_carried() -> None:
    right, wrong = cited(
        "A lease lasts 10 seconds [1]. A lease lasts 90 seconds [1].",
        make_hits("A lease lasts 10 seconds."),
    )

    assert (right.supported, wrong.supported) == (True, False)


def test_grouped_digits_are_the_same_number() -> None:
    (citation,) = cited("It holds 10000 jobs [1].", make_hits("It holds 10,000 jobs."))

    assert citation.supported


def test_a_claim_over_two_sentences_of_a_passage_is_carried() -> None:
    (citation,) = cited("Job queues carry work whose rings may arrive twice or be lost [1].")

    assert citation.supported


def test_a_marker_without_a_claim_is_not_carried() -> None:
    (citation,) = cited("[1] says so.")

    assert not citation.supported


def test_an_index_in_code_is_no_citation() -> None:
    scanner = scan("Use `rows[1]` or\n```\nx = rows[2]\n```\nto read.")

    assert scanner.citations == []
    assert scanner.invalid == []


@pytest.mark.parametrize(
    "code",
    [
        "```\nx = [2]\n[1]\n```",
        "~~~\nrows = [\n  [1], [2]]\n~~~",
        "````\n```\n[1]\n````",
        "`[1]`",
        "`x = [1]`",
        "`f([1], [2])`",
    ],
)
def test_a_list_in_code_is_no_citation(code: str) -> None:
    scanner = scan(f"Rings may arrive twice:\n\n{code}\n\nA lost ring is found [1].")

    assert [citation.n for citation in scanner.citations] == [1]
    assert scanner.invalid == []


def test_a_marker_after_a_lone_backtick_is_a_citation() -> None:
    assert len(cited("Rings `may arrive twice [1]")) == 1


def test_several_sentences_that_stand_in_the_passage_are_quoted_whole() -> None:
    claim = "A lost ring is found by the reconciler within two seconds. Rings may arrive twice."

    (citation,) = cited(f"{claim} [1]")

    assert citation.quote == claim


def test_a_marker_after_code_is_a_citation() -> None:
    assert len(cited("Call `ring()` [1] and `beat`[2]. A job goes on[2].")) == 3


def test_an_escaped_bracket_is_no_marker() -> None:
    scanner = scan(r"As measured,\[7] it goes on.")

    assert (scanner.citations, scanner.invalid) == ([], [])


def test_a_passage_is_quoted_in_its_own_language() -> None:
    chinese = make_hits("租约持续十秒钟。工人沉默时，另一个工人接手任务。")

    (citation,) = cited("工人沉默时另一个工人会接手 [1]。", chinese)

    assert citation.quote == "工人沉默时，另一个工人接手任务。"
    assert citation.supported


def test_only_what_may_become_a_marker_is_held_back() -> None:
    scanner = CitationScanner(HITS)

    shown = [
        "".join(shown for shown, _ in scanner.feed(text))
        for text in ("Jobs go on [", "1", "2", "x] [3", "]", " [")
    ]
    end = list(scanner.feed("", last=True))

    assert shown == ["Jobs go on ", "", "", "[12x] ", "[3]", " "]
    assert end == [("[", ())]


def test_a_text_without_brackets_passes_at_once() -> None:
    assert list(CitationScanner(HITS).feed("plain")) == [("plain", ())]


def test_an_empty_passage_can_be_cited() -> None:
    (citation,) = cited("Nothing [1].", make_hits("  "))

    assert not citation.supported


FRAGMENTS = st.sampled_from(
    [
        "[",
        "]",
        "1",
        "2",
        "[1]",
        "[1, 2]",
        "[3][1]",
        ",",
        " ",
        ". ",
        "\n",
        "`",
        "```\n",
        "\\",
        "a",
        "Rings arrive twice",
        "lease",
        "[99]",
    ]
)


@given(st.lists(FRAGMENTS, max_size=30).map("".join), st.data())
def test_where_the_text_is_split_makes_no_difference(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    whole, split = CitationScanner(HITS), CitationScanner(HITS)
    expected = flat(whole.feed(text, last=True))

    pieces = []
    for low, high in pairwise([0, *cuts, len(text)]):
        pieces += split.feed(text[low:high])
    pieces += split.feed("", last=True)
    found = flat(pieces)

    assert found == expected
    assert found[0] == text
    assert split.invalid == whole.invalid


@given(st.lists(FRAGMENTS, max_size=30).map("".join))
def test_every_quote_stands_in_its_passage(text: str) -> None:
    for citation in cited(text):
        chunk = HITS[citation.n - 1].chunk
        start = citation.start - chunk.start
        end = citation.end - chunk.start
        assert chunk.text[start:end] == citation.quote

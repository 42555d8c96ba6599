from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragqueue.language.sentences import split

# A busy machine fails no test.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in split(text)]


@pytest.mark.parametrize(
    "expected",
    [
        ["One.", "Two!", "Three?", "Four… ", "Five"],
        ["Dr. Smith met Mr. J. Doe at 5 p.m. in the U.S. office.", "He left."],
        ['He said "Go!" and went.', '"Really?" she asked.', '"Yes."', "Then (at last.)", "An end."],
        ["It cost 3.50 dollars in ragqueue.parsers.pool, see Fig. 3 (e.g. the left one).", "Done."],
        ["It ended in 1995.", "He was 12.", "Then he left."],
        ["He said no.", "See No. 5 etc.", "The end."],
        ["Am 3. Oktober 1990 war es z. B. soweit.", "Das ist gut, Nr. 5 vgl. oben."],
        ["今天很好。", "明天呢？", "「好！」", "他说。"],
        ["¿Qué hora es?", "¡Son las dos!", "La Sra. López lo sabe."],
        ["यह पहला वाक्य है।", "यह दूसरा है।"],
    ],
)
def test_a_line_falls_into_its_sentences(expected: list[str]) -> None:
    joiner = "" if "今" in expected[0] else " "

    assert sentences(joiner.join(part.strip() for part in expected)) == [
        part.strip() for part in expected
    ]


def test_a_wrapped_line_does_not_end_a_sentence() -> None:
    assert sentences("This goes\non here. And\nhere.") == ["This goes\non here.", "And\nhere."]


def test_an_empty_line_ends_a_sentence() -> None:
    assert sentences("A title\n\nand text\n \nmore") == ["A title", "and text", "more"]


def test_list_items_headings_and_rows_are_sentences_of_their_own() -> None:
    text = (
        "# Title\nText\ngoes on\n- one\n  wrapped\n- two\n2. Open it. Shut it.\n"
        "| a | b |\n| c | d |\nafter"
    )

    assert sentences(text) == [
        "# Title",
        "Text\ngoes on",
        "- one\n  wrapped",
        "- two",
        "2. Open it.",
        "Shut it.",
        "| a | b |",
        "| c | d |",
        "after",
    ]


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\t\n "])
def test_a_blank_text_has_no_sentences(text: str) -> None:
    assert split(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "." * 50_000,
        ". " * 50_000,
        "a." * 50_000,
        '."' * 50_000,
        "\n" * 50_000,
        "x" * 50_000 + ".",
        "e.g. " * 20_000,
    ],
)
def test_degenerate_texts_are_split_too(text: str) -> None:
    assert "".join(text[start:end] for start, end in split(text)) == "".join(sentences(text))


@UNTIMED
@given(st.text(st.sampled_from('ab .!?。\n-#|1)"”\u2028e.g'), max_size=80))
def test_spans_rise_are_trimmed_and_leave_nothing_out(text: str) -> None:
    spans = split(text)

    assert all(first[1] <= second[0] for first, second in pairwise(spans))
    assert all(text[start:end] == text[start:end].strip() != "" for start, end in spans)
    assert "".join("".join(text[start:end].split()) for start, end in spans) == "".join(
        text.split()
    )

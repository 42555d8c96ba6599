"""The filter that keeps the prompt's fence out of an answer."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragqueue.answering.echo import EchoFilter
from ragqueue.answering.prompt import build
from ragqueue.testing.contracts.generators import TEXTS, make_hits

FENCES = [
    '<source-k3f9 n="1" title="Part 1 > Leases">',
    "</source-k3f9>",
    "< / SOURCE-1 >",
    "<Source-x n=1/>",
    "<source->",
    '<source-a title="b" n="2">',
]


def shown(*pieces: str) -> str:
    echo = EchoFilter()
    return "".join([*(echo.feed(piece) for piece in pieces), echo.feed("", last=True)])


@pytest.mark.parametrize("fence", FENCES)
def test_a_tag_of_our_fence_is_not_shown(fence: str) -> None:
    assert shown(f"A lease {fence}lasts.") == "A lease lasts."


@pytest.mark.parametrize(
    "text",
    [
        '<source src="a.webm">',
        "<sources-x>",
        "a < b and <b>bold</b>",
        "</source>",
        "&lt;source-1>",
        "<< source",
        "no tag at all",
        "1 <\n2",
    ],
)
def test_other_text_is_left_alone(text: str) -> None:
    assert shown(f"{text} it is.") == f"{text} it is."


@pytest.mark.parametrize("end", range(1, len(FENCES[0])))
def test_a_tag_that_the_answer_ends_within_is_not_shown(end: int) -> None:
    assert shown("A lease lasts. ", FENCES[0][:end]) == "A lease lasts. "


def test_no_part_of_the_prompt_shows_a_fence_however_much_is_echoed() -> None:
    user = build("Why?", make_hits(*TEXTS), budget_tokens=1000, nonce="k3f9x2").user

    for end in range(len(user)):
        assert "<source" not in shown(user[:end])


def test_a_tag_with_an_open_quote_takes_no_more_than_its_line_with_it() -> None:
    assert shown('<source-a title="b\nA lease lasts.') == ' title="b\nA lease lasts.'
    assert len(shown('<source-a title="' + "A lease lasts. " * 100)) > 1000


def test_what_may_become_a_tag_waits_and_everything_else_passes_at_once() -> None:
    echo = EchoFilter()

    pieces = ("plain", " a <", " b", " <sou", "p> <source-a", ">", "end")
    shown = [echo.feed(piece) for piece in pieces]

    assert shown == ["plain", " a ", "< b", " ", "<soup> ", "", "end"]


PIECES = st.sampled_from(
    [
        *FENCES,
        "<",
        "/",
        " ",
        "source",
        "-",
        "src",
        ">",
        '"',
        "n=1",
        "\n",
        "a",
        "A lease lasts.",
        "[1]",
        "<b>",
        "SOURCE-",
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join), st.data())
def test_where_the_text_is_split_makes_no_difference(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[low:high] for low, high in pairwise([0, *cuts, len(text)])]

    assert shown(*pieces) == shown(text) == shown(*text)


PARTS = [*FENCES, "A lease lasts. ", "Rings may arrive twice [1]. ", "a > b, ", "`x = [2]`\n"]


@given(st.lists(st.sampled_from(PARTS), max_size=12))
def test_an_answer_between_tags_is_shown_whole(parts: list[str]) -> None:
    assert shown("".join(parts)) == "".join(part for part in parts if part not in FENCES)

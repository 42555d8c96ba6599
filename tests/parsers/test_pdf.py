import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragqueue.errors import UnreadableDocument
from ragqueue.parsers.pdf import PdfParser
from ragqueue.types import Parsed
from tests.parsers.blocks import assert_exact, shown
from tests.parsers.pdfs import pdf

# A busy machine fails no test.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def parse(data: bytes) -> Parsed:
    parsed = PdfParser().parse(data, "a.pdf")
    assert_exact(parsed)
    return parsed


def test_pages_count_from_one() -> None:
    parsed = parse(pdf([["First."], ["Second."], ["Third."]]))

    assert [(block.page, parsed.text[block.start : block.end]) for block in parsed.blocks] == [
        (1, "First."),
        (2, "Second."),
        (3, "Third."),
    ]
    assert parsed.pages == 3


def test_bookmarks_make_the_heading_path() -> None:
    parsed = parse(
        pdf(
            [["1. Install", "Do this.", "2 Run", "Do that."], ["More of it."]],
            bookmarks=[("Install", 0), ("Run", 0)],
        )
    )

    assert [(block.kind, block.heading_path) for block in parsed.blocks] == [
        ("heading", ("Install",)),
        ("paragraph", ("Install",)),
        ("heading", ("Run",)),
        ("paragraph", ("Run",)),
        ("paragraph", ("Run",)),
    ]


def test_a_bookmark_that_no_line_shows_heads_its_page() -> None:
    parsed = parse(pdf([["Text."]], bookmarks=[("Elsewhere", 0)]))

    assert [(block.kind, block.heading_path) for block in parsed.blocks] == [
        ("paragraph", ("Elsewhere",))
    ]


def test_a_short_line_that_ends_a_sentence_ends_its_paragraph() -> None:
    parsed = parse(
        pdf(
            [
                [
                    "A line that is as long as the page is wide",
                    "and ends here.",
                    "The next paragraph begins and is long too",
                ]
            ]
        )
    )

    assert [text for _, text in shown(parsed)] == [
        "A line that is as long as the page is wide\nand ends here.",
        "The next paragraph begins and is long too",
    ]


def test_a_word_broken_at_the_end_of_a_line_is_joined() -> None:
    parsed = parse(pdf([["This sentence is hyphen-", "ated by its typesetter."]]))

    assert "hyphenated" in parsed.text


@pytest.mark.parametrize(
    ("written", "read"),
    [("Annual report", "Annual report"), ("Untitled", ""), ("report_final.docx", "")],
)
def test_the_title_is_the_one_of_the_file_unless_a_program_invented_it(
    written: str, read: str
) -> None:
    assert parse(pdf([["Text."]], title=written)).title == read


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "is not a PDF"),
        (b"# Markdown", "is not a PDF"),
        (pdf([["x"]], encrypted=True), "encrypted and needs a password"),
        (pdf([["x"]])[:-200], "cut off"),
        (b"%PDF-1.7\ngarbage\n%%EOF\n", "damaged"),
        (pdf([[], []]), r"2 page\(s\) but no text: it may be a scan"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_cause(data: bytes, cause: str) -> None:
    with pytest.raises(UnreadableDocument, match=rf"'a\.pdf'.*{cause}"):
        parse(data)


LINE = st.text(
    st.characters(codec="cp1252", exclude_characters="\\\x00", exclude_categories=["Cc"]),
    max_size=40,
)


@UNTIMED
@given(st.lists(st.lists(LINE, max_size=6), min_size=1, max_size=3), st.lists(LINE, max_size=3))
def test_blocks_of_any_pdf_are_exact_and_rise(pages: list[list[str]], bookmarks: list[str]) -> None:
    plain = [heading.replace("(", "").replace(")", "") for heading in bookmarks]
    try:
        parse(pdf(pages, bookmarks=[(heading, 0) for heading in plain]))
    except UnreadableDocument as error:
        assert "no text" in error.message  # noqa: PT017 - the only cause allowed

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragqueue.errors import UnreadableDocument
from ragqueue.ingestion.chunks import chunk, count
from ragqueue.parsers.base import Parser
from ragqueue.parsers.html import HtmlParser
from ragqueue.parsers.markdown import MarkdownParser
from ragqueue.parsers.text import TextParser
from ragqueue.types import Block, Parsed

# A busy machine fails no test.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

CASES = Path(__file__).parents[1] / "cases" / "chunking"
PARSERS: dict[str, type[Parser]] = {".md": MarkdownParser, ".txt": TextParser, ".html": HtmlParser}
SMALL = {"target": 40, "smallest": 12, "largest": 50}


def parse(source: str, suffix: str = ".md") -> Parsed:
    return PARSERS[suffix]().parse(source.encode(), f"a{suffix}")


@pytest.mark.parametrize(
    "case", sorted(path.name for path in CASES.iterdir() if path.suffix in PARSERS)
)
def test_passages_are_those_of_the_case(case: str) -> None:
    source = CASES / case

    passages = chunk(parse(source.read_text(encoding="utf-8"), source.suffix), **SMALL)

    shown = "".join(
        f"@ {' > '.join(passage.heading_path)} ({count(passage.text)})\n{passage.text}\n"
        for passage in passages
    )
    assert shown == (CASES / f"{case}.expected").read_text(encoding="utf-8")


def test_a_table_of_many_rows_is_cut_at_its_rows() -> None:
    rows = [f"| {n} | row number {n} | of a table |" for n in range(100)]

    passages = chunk(parse("\n".join(["| n | name | rest |", "|---|---|---|", *rows])))

    assert len(passages) > 1
    assert [line for passage in passages for line in passage.text.split("\n")][2:] == rows


def test_a_table_that_fits_is_whole_although_it_is_above_the_target() -> None:
    table = "\n".join(
        ["| n | name |", "|---|---|", *(f"| {n} | row number {n} |" for n in range(30))]
    )
    before = "Some words before it. " * 20
    after = "Some words after it. " * 20

    passages = chunk(parse(f"# Rows\n\n{before}\n\n{table}\n\n{after}"))

    assert 200 < count(table) <= 256
    assert table in [passage.text for passage in passages]


def test_a_heading_stays_with_what_it_heads() -> None:
    table = "\n".join(
        ["| n | name |", "|---|---|", *(f"| {n} | row number {n} |" for n in range(24))]
    )

    passages = chunk(parse(f"# Rows\n\n{table}"))

    assert passages[0].text.startswith("# Rows\n\n| n | name |")


def test_top_headings_are_never_crossed() -> None:
    passages = chunk(parse("# A\n\nx\n\n# B\n\ny\n\n# C\n\nz\n"))

    assert [passage.text for passage in passages] == ["# A\n\nx", "# B\n\ny", "# C\n\nz"]


def test_the_title_is_not_repeated_in_the_heading_path() -> None:
    passages = chunk(
        parse("# Guide\n\n" + "Some words. " * 60 + "\n\n## Install\n\n" + "Other words. " * 60)
    )

    assert [passage.heading_path for passage in passages] == [(), ("Install",)]


def test_a_passage_carries_the_page_where_it_begins() -> None:
    text = "One.\n\nTwo."
    parsed = Parsed(
        text=text,
        blocks=[
            Block(kind="paragraph", start=0, end=4, page=3),
            Block(kind="paragraph", start=6, end=10, page=4),
        ],
        pages=4,
    )

    assert [passage.page for passage in chunk(parsed)] == [3]


def test_a_word_without_end_is_cut_all_the_same() -> None:
    passages = chunk(parse("QUJD" * 10_000))

    assert len(passages) > 20
    assert max(count(passage.text) for passage in passages) <= 256


def test_passages_of_long_prose_are_of_about_the_same_size() -> None:
    passages = chunk(parse("A sentence of about ten words stands here again. " * 500))

    sizes = [count(passage.text) for passage in passages]
    assert min(sizes) > 150
    assert max(sizes) < 250


@pytest.mark.parametrize("words", range(20, 160, 7))
def test_a_passage_never_ends_with_an_announcement_of_code_that_fits(words: int) -> None:
    code = "```python\n" + "print(lease)\n" * 30 + "```"

    passages = chunk(
        parse(f"# Lease\n\n{'word ' * words}.\n\nSet it like this:\n\n{code}\n\n{'word ' * 60}")
    )

    assert [passage.text[-20:] for passage in passages if passage.text.endswith(":")] == []


def test_a_document_without_blocks_has_no_passages() -> None:
    assert chunk(Parsed(text="", blocks=[])) == []


def test_chinese_counts_a_token_a_character() -> None:
    assert count("人人生而自由，") == 7


WORDS = st.sampled_from(
    [
        "# Top",
        "## Sub",
        "### Deep",
        "#### Deeper",
        "words in a row. And more of them!",
        "- item one",
        "  - item two",
        "1. first",
        "> quoted",
        "```",
        "| a | b |",
        "|---|---|",
        "<!-- unseen -->",
        "<div>",
        "---",
        "日本語の文章。" * 9,
        "x" * 300,
        "word " * 70,
        "",
        "",
        "Text\u2028more.",
        "\x1c",
        "\u3000",
    ]
)


@UNTIMED
@given(st.lists(WORDS, max_size=40).map("\n".join), st.sampled_from([SMALL, {}]))
def test_passages_of_any_markdown_are_slices_in_order_that_hold_all_of_its_blocks(
    source: str, options: dict[str, int]
) -> None:
    try:
        parsed = parse(source)
    except UnreadableDocument:
        return

    passages = chunk(parsed, **options)

    covered = bytearray(len(parsed.text))
    end = 0
    for passage in passages:
        assert passage.start >= end
        assert parsed.text[passage.start : passage.end] == passage.text
        assert passage.text.strip()
        assert count(passage.text) <= options.get("largest", 256) or len(passage.text.split()) == 1
        covered[passage.start : passage.end] = b"\x01" * len(passage.text)
        end = passage.end
    assert all(
        covered[at] or parsed.text[at].isspace()
        for block in parsed.blocks
        for at in range(block.start, block.end)
    )
    for block in parsed.blocks:
        covered[block.start : block.end] = b"\x02" * (block.end - block.start)
    between = "".join(
        character for character, by in zip(parsed.text, covered, strict=True) if by == 1
    )
    assert "unseen" not in between


@UNTIMED
@given(st.text(max_size=60), st.text(max_size=60))
def test_two_texts_joined_never_count_more_than_apart(first: str, second: str) -> None:
    assert count(first + second) <= count(first) + count(second)


@UNTIMED
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_what_is_not_blank_counts(text: str) -> None:
    assert (count(text) > 0) == bool(text.strip())

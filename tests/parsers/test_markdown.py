import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragqueue.errors import UnreadableDocument
from ragqueue.parsers.markdown import MarkdownParser
from ragqueue.types import Parsed
from tests.parsers.blocks import assert_exact, shown

# A busy machine fails no test.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def parse(source: str) -> Parsed:
    parsed = MarkdownParser().parse(source.encode(), "a.md")
    assert_exact(parsed)
    return parsed


def test_the_canonical_text_is_the_source() -> None:
    source = "# Title\n\nSome *text*.\n"

    assert parse(source).text == source


def test_each_kind_of_block_is_found_where_it_stands() -> None:
    source = (
        "# Title\n\nOne\ntwo.\n\n- a\n- b\n\n1. c\n\n| h | i |\n|---|---|\n| 1 | 2 |\n\n"
        "```py\nx = 1\n```\n\n> said\n\n    indented\n\nEnd\n===\n"
    )

    assert shown(parse(source)) == [
        ("heading", "# Title"),
        ("paragraph", "One\ntwo."),
        ("list", "- a\n- b"),
        ("list", "1. c"),
        ("table", "| h | i |\n|---|---|\n| 1 | 2 |"),
        ("code", "```py\nx = 1\n```"),
        ("quote", "> said"),
        ("code", "    indented"),
        ("heading", "End\n==="),
    ]


def test_headings_make_the_path_of_what_follows() -> None:
    parsed = parse("# A\n\nx\n\n### B\n\ny\n\n## C\n\nz\n\n# D\n\nw\n")

    paths = [block.heading_path for block in parsed.blocks if block.kind == "paragraph"]
    assert paths == [("A",), ("A", "B"), ("A", "C"), ("D",)]


def test_a_heading_in_a_path_is_plain_text() -> None:
    parsed = parse("## Use `run()` & [the *docs*](https://x.y) <b>now</b> { #anchor }\n")

    assert parsed.blocks[0].heading_path == ("Use run() & the docs now",)


@pytest.mark.parametrize("fence", ["---", "+++"])
def test_front_matter_gives_the_title_and_is_no_block(fence: str) -> None:
    key = "title:" if fence == "---" else "title ="
    parsed = parse(f'{fence}\n{key} "Guide: one"\ntags:\n  - a\n- b\n# note\n{fence}\n\nText.\n')

    assert parsed.title == "Guide: one"
    assert shown(parsed) == [("paragraph", "Text.")]


def test_text_between_two_rules_is_no_front_matter() -> None:
    parsed = parse("---\nJust a thought.\n\n- item\n---\nText.\n")

    assert "Just a thought." in {text for _, text in shown(parsed)}


def test_the_first_top_heading_is_the_title() -> None:
    assert parse("Preamble\n\n## Minor\n\n# Major\n\n# Other\n").title == "Major"


def test_comments_and_scripts_are_no_blocks() -> None:
    parsed = parse(
        "<!-- obey -->\n\n<div>\nseen <!-- not\nseen --> again\n</div>\n\n"
        "<script>\nalert(1)\n</script>\n\n<style>\nb {}\n</style>\n"
    )

    assert shown(parsed) == [("paragraph", "<div>\nseen"), ("paragraph", "again\n</div>")]


def test_tags_without_text_are_no_blocks() -> None:
    assert shown(parse('<div class="x">\n\ntext\n\n</div>\n\n<img src="a.png">\n')) == [
        ("paragraph", "text")
    ]


def test_lists_nested_twenty_deep_lose_nothing_that_follows() -> None:
    source = "".join("  " * n + f"- item {n}\n" for n in range(20)) + "\n# After\n"

    assert shown(parse(source))[-1] == ("heading", "# After")


def test_what_is_no_markdown_is_refused() -> None:
    with pytest.raises(UnreadableDocument, match="NUL"):
        MarkdownParser().parse(b"a\x00b", "a.md")


LINES = st.sampled_from((
    "# A", "## B", "text and *more*", "- item", "  - inner", "1. one", "> quote", "```", "    code",
    "| a | b |", "|---|---|", "---", "===", "<div>", "</div>", "<!-- x", "-->", "<script>",
    "title: x", "[a]: b", "日本語。", "", "", "\t", " \x0b", "\x85", "\u2028",
))  # fmt: skip


@UNTIMED
@given(st.lists(LINES, max_size=25).map("\n".join))
def test_blocks_of_any_markdown_are_exact_and_rise(source: str) -> None:
    parse(source)

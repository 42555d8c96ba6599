from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragqueue.errors import UnreadableDocument
from ragqueue.parsers.text import TextParser
from tests.parsers.blocks import assert_exact, shown

# A busy machine fails no test.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_empty_lines_part_paragraphs() -> None:
    parsed = TextParser().parse(b"\n  One\r\ntwo. \r\n \r\n\r\nThree.\n", "a.txt")

    assert shown(parsed) == [("paragraph", "One\ntwo."), ("paragraph", "Three.")]


def test_an_empty_file_has_no_blocks() -> None:
    assert TextParser().parse(b"\n\n", "a.txt").blocks == []


@UNTIMED
@given(st.text(max_size=200))
def test_blocks_of_any_text_are_exact_and_hold_all_of_it(text: str) -> None:
    try:
        parsed = TextParser().parse(text.encode(errors="ignore"), "a.txt")
    except UnreadableDocument:
        return

    assert_exact(parsed)
    held = "".join(parsed.text[block.start : block.end] for block in parsed.blocks)
    assert "".join(held.split()) == "".join(parsed.text.split())

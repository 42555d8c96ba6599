import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragqueue.parsers.html import HtmlParser
from ragqueue.types import Parsed
from tests.parsers.blocks import assert_exact, shown

# A busy machine fails no test.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def parse(page: str) -> Parsed:
    parsed = HtmlParser().parse(page.encode(), "a.html")
    assert_exact(parsed)
    return parsed


def test_headings_paragraphs_and_code_are_blocks_of_their_own() -> None:
    parsed = parse(
        "<h1>A</h1><p>One\n  <b>two</b>.<br>Three<p>Four<pre>\n x = 1\n\n y\n</pre>"
        "<blockquote><p>said</blockquote>tail"
    )

    assert shown(parsed) == [
        ("heading", "A"),
        ("paragraph", "One two.\nThree"),
        ("paragraph", "Four"),
        ("code", " x = 1\n\n y"),
        ("quote", "said"),
        ("paragraph", "tail"),
    ]


def test_headings_make_the_path_of_what_follows() -> None:
    parsed = parse("<h1>A</h1><h3>B</h3><p>x<h2><a href=#>C</a> <i>c</i></h2><p>y")

    assert [block.heading_path for block in parsed.blocks if block.kind == "paragraph"] == [
        ("A", "B"),
        ("A", "C c"),
    ]


def test_a_list_with_its_inner_lists_is_one_block() -> None:
    parsed = parse("<ul><li>a<ol start=3><li>b<li><p>c</p><p>d</p></ol><li>e</ul>")

    assert shown(parsed) == [("list", "- a\n  3. b\n  4. c\n    d\n- e")]


def test_a_table_is_one_block_with_a_line_for_each_row() -> None:
    parsed = parse(
        "<table><caption>Prices</caption><tr><th>Thing<th>Price"
        "<tr><td><p>Tea</p><p>green</p><td>3<br>4</table>"
    )

    assert shown(parsed) == [("table", "Prices\n| Thing | Price |\n| Tea green | 3 4 |")]


def test_a_table_that_places_things_on_the_page_is_none() -> None:
    parsed = parse("<table><tr><td><h2>Menu</h2><td><table><tr><td>1<td>2</table></table>")

    assert shown(parsed) == [("heading", "Menu"), ("table", "| 1 | 2 |")]


@pytest.mark.parametrize(
    "hidden",
    [
        "<script>SECRET</script>",
        "<style>SECRET</style>",
        "<template><p>SECRET</p></template>",
        "<noscript>SECRET</noscript>",
        "<!-- SECRET -->",
        "<p hidden>SECRET</p>",
        '<div style="color:red; DISPLAY : none"><p>SECRET</div>',
        '<span style="visibility:hidden">SECRET</span>',
        '<span style="font-size:0px">SECRET</span>',
        '<span style="opacity:0">SECRET</span>',
        "<svg><text>SECRET</text></svg>",
        "<iframe>SECRET</iframe>",
        "<dialog>SECRET</dialog>",
        "<select><option>SECRET</select>",
        "<main>x</main><nav>SECRET</nav>",
        '<img alt="SECRET">',
        "<table><tr><td>x<td hidden>SECRET</table>",
        "<ul><li>x<script>SECRET</script></ul>",
    ],
)
def test_what_no_reader_sees_is_not_in_the_text(hidden: str) -> None:
    assert "SECRET" not in parse(f"<html><body>seen {hidden}</body></html>").text


@pytest.mark.parametrize(
    "seen",
    [
        '<p style="font-size:0.9em">SEEN</p>',
        "<nav>SEEN</nav>",
        "<details>SEEN</details>",
        "<dialog open>SEEN</dialog>",
    ],
)
def test_what_a_reader_sees_is_in_the_text(seen: str) -> None:
    assert "SEEN" in parse(seen).text


def test_the_title_of_the_page_is_the_title() -> None:
    assert parse("<title> My\n page </title><h1>Other</h1>").title == "My page"


def test_a_page_without_a_title_is_named_by_its_first_heading() -> None:
    assert parse("<h1>First</h1><h2>Second</h2>").title == "First"


def test_a_page_nested_a_thousand_deep_is_read() -> None:
    assert parse("<div>" * 3000 + "deep").text == "deep"


@pytest.mark.parametrize(
    "page", ["", "<html><script>x</script></html>", "<title>Only</title>", "<body hidden>x</body>"]
)
def test_a_page_without_text_has_no_blocks(page: str) -> None:
    assert parse(page).blocks == []


PARTS = st.sampled_from((
    "<p>", "</p>", "<ul>", "</ul>", "<ol>", "<li>", "<table>", "</table>", "<tr>", "<td>", "<th>",
    "<caption>", "<h1>", "</h1>", "<h2>", "<pre>", "</pre>", "<br>", "<div>", "</div>", "<script>",
    "</script>", "<blockquote>", "</blockquote>", "text", "two words", " ", "\n", "&nbsp;", "&#0;",
    "\t", "\u3000", "\x0b", "</ol>", "</li>", "<hr>", "&#x85;",
))  # fmt: skip


@UNTIMED
@given(st.lists(PARTS, max_size=40).map("".join))
def test_blocks_of_any_page_are_exact_and_hold_all_of_its_text(page: str) -> None:
    parsed = parse(page)

    held = "".join(parsed.text[block.start : block.end] for block in parsed.blocks)
    assert "".join(held.split()) == "".join(parsed.text.split())

"""Read HTML and XHTML: what a reader of the page sees, block by block.

There are no menus where the page marks its main part.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import count, repeat
from typing import Any, NamedTuple

from msgspec import structs
from selectolax.lexbor import LexborHTMLParser

from ragqueue.parsers.base import Parser, with_heading
from ragqueue.parsers.text import decode
from ragqueue.types import Block, Kind, Parsed

_KINDS: dict[str, Kind] = {
    "h1": "heading",
    "h2": "heading",
    "h3": "heading",
    "h4": "heading",
    "h5": "heading",
    "h6": "heading",
    "ul": "list",
    "ol": "list",
    "menu": "list",
    "table": "table",
    "pre": "code",
    "blockquote": "quote",
}
_FLAT = ("heading", "table")  # in these, only the edges of _LINES end a line
_LINES = ("caption", "tr", "table", "h1", "h2", "h3", "h4", "h5", "h6")
_BLOCKS = frozenset((
    *_KINDS, *_LINES, "address", "article", "aside", "body", "center", "dd", "details", "dialog",
    "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup",
    "hr", "html", "legend", "li", "main", "nav", "p", "section", "summary", "tbody", "td", "tfoot",
    "th", "thead",
))  # fmt: skip
_UNSEEN = (
    "audio, canvas, datalist, dialog:not([open]), head, iframe, noscript, object, script, select, "
    "style, svg, template, title, video, [hidden]"
)
_UNSEEN_STYLE = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|(?:font-size|opacity)\s*:\s*0[a-z%]*\s*(?:;|!|\Z)",
    re.I,
)
_LAYOUT = "table:has(table, h1, h2, h3, h4, h5, h6)"  # a table that only places things on the page


class _Place(NamedTuple):
    """Where text stands, as elements pass it on to those inside."""

    kind: Kind = "paragraph"
    # The element whose lines are one block; 0 when each line is one, as in a quote.
    element: int = 0
    level: int = 0  # of a heading, or of the lists that are open
    markers: Iterator[str] = repeat("- ")  # of the items to come


class HtmlParser(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        page = LexborHTMLParser(decode(data, name, markup=True))
        text, blocks = _joined(_Walk(page).lines())
        return Parsed(text=text, blocks=blocks, title=_title(page))


def _title(page: LexborHTMLParser) -> str:
    """Return the title of a page, else its first heading, else nothing."""
    title = page.css_first("head title, h1, h2, h3, h4, h5, h6")
    if title is None:
        return ""
    return " ".join(title.text().split())


def _joined(lines: Iterable[tuple[_Place, str]]) -> tuple[str, list[Block]]:
    """Return the text of all lines and its blocks, which are parted by an empty line."""
    pieces: list[str] = []
    blocks: list[Block] = []
    outline: dict[int, str] = {}
    element = 0  # of the last block
    end = 0
    for place, line in lines:
        if place.element and place.element == element:  # the line goes on with the last block
            pieces += ("\n", line)
            end += 1 + len(line)
            blocks[-1] = structs.replace(blocks[-1], end=end)
            continue
        element = place.element
        if place.kind == "heading":
            outline = with_heading(outline, place.level, line)
        if blocks:
            pieces.append("\n\n")
            end += 2
        start = end
        pieces.append(line)
        end += len(line)
        heading_path = tuple(outline.values())
        blocks.append(Block(kind=place.kind, start=start, end=end, heading_path=heading_path))
    return "".join(pieces), blocks


class _Walk:
    """Reads a page from its first node to its last; a line is what stands between edges of blocks.

    An edge is the start or the end of an element. No recursion, for pages nest a hundred thousand
    deep: the stack holds the nodes to come, and the tag of each element that is still to end.
    """

    def __init__(self, page: LexborHTMLParser) -> None:
        self._unseen = _unseen_elements(page)
        self._layout = {node.mem_id for node in page.css(_LAYOUT)}
        self._stack: list[tuple[Any, _Place]] = [(page.root, _Place())]
        self._line: list[str] = []  # the pieces of it that were read
        self._line_place = _Place()  # of its last piece
        self._marker = ""  # of the item that the next line begins

    def lines(self) -> Iterator[tuple[_Place, str]]:
        """Yield what can be seen, line by line, each with its place."""
        while self._stack:
            node, place = self._stack.pop()
            if isinstance(node, str):  # the tag of an element that ends
                line = self._pass_edge(node, place, starts=False)
            elif node.is_text_node:
                self._read_text(node.text_content or "", place)
                continue
            elif node.mem_id in self._unseen or not node.is_element_node:
                continue
            else:
                line = self._enter(node, place)
            if line:
                yield self._line_place, line

    def _read_text(self, text: str, place: _Place) -> None:
        if place.kind != "code":
            text = re.sub(r"\s+", " ", text)
        self._line.append(text)
        self._line_place = place

    def _enter(self, node: Any, place: _Place) -> str:
        """Put an element's end and what it holds on the stack; return the line that ends here."""
        tag = node.tag
        inside = place if node.mem_id in self._layout else _inside(node, place)
        self._stack.append((tag, inside))
        children = list(node.iter(include_text=True))
        self._stack.extend((child, inside) for child in reversed(children))
        return self._pass_edge(tag, inside, starts=True)

    def _pass_edge(self, tag: str, place: _Place, *, starts: bool) -> str:
        """Return the line that ends at the edge of an element; nothing where the line goes on."""
        if tag not in _BLOCKS:
            if tag == "br" and starts:
                self._line.append("\n")
            return ""
        if place.kind in _FLAT and tag not in _LINES:
            is_cell = tag in ("td", "th") and starts
            self._line.append(" | " if is_cell else " ")
            return ""
        line = self._end_line()
        if tag == "li" and starts:
            self._marker = next(place.markers)
        return line

    def _end_line(self) -> str:
        """Return the line that was read; nothing, and keep the marker, when none can be seen."""
        line = _laid_out("".join(self._line), self._line_place, self._marker)
        self._line.clear()
        if line:
            self._marker = ""
        return line


def _unseen_elements(page: LexborHTMLParser) -> set[int]:
    """Return the elements that no reader of a page sees."""
    selector = _UNSEEN
    if page.css_first("main, article, [role=main]") is not None:
        selector += ", nav"
    unseen = {node.mem_id for node in page.css(selector)}
    for node in page.css("[style]"):
        if _UNSEEN_STYLE.search(node.attributes["style"] or ""):
            unseen.add(node.mem_id)
    return unseen


def _inside(node: Any, place: _Place) -> _Place:
    """Return the place of what an element holds.

    Nothing makes blocks in a table or a heading, and a list is one block with its lists.
    """
    kind = _KINDS.get(node.tag)
    if kind is None or place.kind in _FLAT:
        return place
    if kind == "list":
        return _Place(
            kind=kind,
            element=place.element if place.kind == "list" else node.mem_id,
            level=place.level + 1,
            markers=_markers(node),
        )
    if kind == "quote":
        if place.kind != "paragraph":
            return place
        return place._replace(kind=kind, element=0)
    if kind == "heading":
        return place._replace(kind=kind, element=node.mem_id, level=int(node.tag[1]))
    return place._replace(kind=kind, element=node.mem_id)


def _markers(node: Any) -> Iterator[str]:
    """Return the markers of a list's items, without end: numbers in an <ol>, else dashes."""
    if node.tag != "ol":
        return repeat("- ")
    start = node.attributes.get("start") or "1"
    first = int(start) if start.isdecimal() and len(start) < 10 else 1
    return (f"{number}. " for number in count(first))


def _laid_out(line: str, place: _Place, marker: str) -> str:
    """Return a line as it stands in its block: as a row, code, an item or plain text.

    Return nothing when there is nothing to see.
    """
    if not line.replace("|", " ").strip():
        return ""
    if place.kind == "code":
        return line.strip("\n").rstrip()
    if place.kind in _FLAT:
        row = " ".join(line.split())
        return f"{row} |" if line.lstrip().startswith("| ") else row
    first = ""
    if place.kind == "list":
        first = "  " * (min(place.level, 8) - 1) + (marker or "  ")
    squeezed = [" ".join(part.split()) for part in line.split("\n")]
    break_and_indent = "\n" + " " * len(first)
    return first + break_and_indent.join(part for part in squeezed if part)

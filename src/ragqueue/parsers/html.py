"""Read HTML and XHTML: what a reader of the page sees, block by block; no menus where the page marks its main part."""

import re
from collections.abc import Iterator
from itertools import count, repeat
from typing import Any, NamedTuple

from selectolax.lexbor import LexborHTMLParser

from ragqueue.parsers.base import Parser, opened
from ragqueue.parsers.text import decode
from ragqueue.types import Block, Kind, Parsed

_KINDS: dict[str, Kind] = {
    "h1": "heading", "h2": "heading", "h3": "heading", "h4": "heading", "h5": "heading", "h6": "heading", "ul": "list", "ol": "list",
    "menu": "list", "table": "table", "pre": "code", "blockquote": "quote",
}  # fmt: skip
_FLAT = ("heading", "table")  # in these, only the ends of _LINES end a line
_LINES = ("caption", "tr", "table", "h1", "h2", "h3", "h4", "h5", "h6")
_BLOCKS = frozenset((
    *_KINDS, *_LINES, "address", "article", "aside", "body", "center", "dd", "details", "dialog", "div", "dl", "dt", "fieldset", "figcaption",
    "figure", "footer", "form", "header", "hgroup", "hr", "html", "legend", "li", "main", "nav", "p", "section", "summary", "tbody", "td",
    "tfoot", "th", "thead",
))  # fmt: skip
_UNSEEN = "audio, canvas, datalist, dialog:not([open]), head, iframe, noscript, object, script, select, style, svg, template, title, video, [hidden]"
_UNSEEN_STYLE = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|(?:font-size|opacity)\s*:\s*0[a-z%]*\s*(?:;|!|\Z)",
    re.I,
)
_LAYOUT = "table:has(table, h1, h2, h3, h4, h5, h6)"  # a table that only places things on the page


class _Place(NamedTuple):  # where text stands, as elements pass it on to those inside
    kind: Kind = "paragraph"
    whole: int = 0  # the element whose lines are one block; 0 when each is one, as in a quote
    level: int = 0  # of a heading, or of the lists that are open
    markers: Iterator[str] = repeat("- ")  # of the items to come


class HtmlParser(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        page = LexborHTMLParser(decode(data, name, markup=True))
        text, blocks, outline, whole, end = list[str](), list[Block](), dict[int, str](), 0, -2
        for place, line in _lines(page):
            goes_on = place.whole == whole != 0
            if place.kind == "heading" and not goes_on:
                outline = opened(outline, place.level, line)
            start = blocks.pop().start if goes_on else end + 2
            text.append(("\n" if goes_on else "\n\n") + line)
            end, whole = end + len(text[-1]), place.whole
            blocks.append(Block(place.kind, start, end, tuple(outline.values())))
        title = page.css_first("head title, h1, h2, h3, h4, h5, h6")
        return Parsed(
            "".join(text)[2:],
            blocks,
            title=" ".join(title.text().split()) if title is not None else "",
        )


def _lines(page: LexborHTMLParser) -> Iterator[tuple[_Place, str]]:
    """Yield what can be seen, line by line; without recursion, for pages nest a hundred thousand deep."""
    unseen = {
        node.mem_id
        for node in page.css(
            _UNSEEN + (", nav" if page.css_first("main, article, [role=main]") is not None else "")
        )
    }
    unseen |= {
        node.mem_id
        for node in page.css("[style]")
        if _UNSEEN_STYLE.search(node.attributes["style"] or "")
    }
    layout = {node.mem_id for node in page.css(_LAYOUT)}
    run, marker, here, stack = list[str](), "", _Place(), list[Any]([(page.root, _Place())])
    while stack:
        node, place = stack.pop()
        if ends := isinstance(node, str):
            tag = node
        elif node.is_text_node:
            text, here = node.text_content or "", place
            run.append(text if place.kind == "code" else re.sub(r"\s+", " ", text))
            continue
        elif node.mem_id in unseen or not node.is_element_node:
            continue
        else:
            tag, place = node.tag, place if node.mem_id in layout else _inside(node, place)
            stack += (
                (tag, place),
                *((child, place) for child in reversed(list(node.iter(include_text=True)))),
            )
        if tag not in _BLOCKS:
            run += "\n" * (tag == "br" and not ends)
        elif tag not in _LINES and place.kind in _FLAT:
            run.append(" | " if tag in ("td", "th") and not ends else " ")
        else:
            if line := _shown("".join(run), here, marker):
                yield here, line
                marker = ""
            run, marker = [], next(place.markers) if tag == "li" and not ends else marker


def _inside(node: Any, place: _Place) -> _Place:
    """Return the place of what an element holds: nothing makes blocks in a table or a heading, and a list is one block with its lists."""
    tag, kind = node.tag, _KINDS.get(node.tag)
    if kind is None or place.kind in _FLAT or (kind == "quote" and place.kind != "paragraph"):
        return place
    if kind != "list":
        level = int(tag[1]) if kind == "heading" else place.level
        return place._replace(kind=kind, whole=0 if kind == "quote" else node.mem_id, level=level)
    start = (tag == "ol" and node.attributes.get("start")) or "1"
    markers = (
        map("{}. ".format, count(int(start) if start.isdecimal() and len(start) < 10 else 1))
        if tag == "ol"
        else repeat("- ")
    )
    return _Place(
        kind, place.whole if place.kind == kind else node.mem_id, place.level + 1, markers
    )


def _shown(run: str, place: _Place, marker: str) -> str:
    """Return a run of text as it stands in its block: as a row, code or an item; nothing when there is nothing to see."""
    if not run.replace("|", " ").strip():
        return ""
    if place.kind == "code":
        return run.strip("\n").rstrip()
    if place.kind in _FLAT:
        return " ".join(run.split()) + " |" * run.lstrip().startswith("| ")
    first = "  " * (min(place.level, 8) - 1) + (marker or "  ") if place.kind == "list" else ""
    lines = (" ".join(line.split()) for line in run.split("\n"))
    return first + ("\n" + " " * len(first)).join(line for line in lines if line)

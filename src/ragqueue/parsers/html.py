"""Read HTML: what a reader of the page sees, block by block."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import count, repeat
from typing import Any

from selectolax.lexbor import LexborHTMLParser

from ragqueue.errors import UnreadableDocument
from ragqueue.parsers.base import Parser
from ragqueue.parsers.charset import blank, decode
from ragqueue.parsers.outline import Kind, Outline
from ragqueue.types import Block, Parsed

_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_LISTS = ("ul", "ol", "menu")
_TABLE_PARTS = ("table", "caption", "tr", "td", "th")
_BLOCKS = frozenset((
    *_HEADINGS, *_LISTS, *_TABLE_PARTS, "address", "article", "aside", "blockquote", "body", "center", "dd", "details", "dialog", "div", "dl",
    "dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup", "hr", "html", "legend", "li", "main", "nav", "p", "pre",
    "section", "summary", "tbody", "tfoot", "thead",
))  # fmt: skip
_UNSEEN = frozenset((
    "audio", "canvas", "datalist", "embed", "head", "iframe", "noscript", "object", "script", "select", "style", "svg", "template", "title",
    "video",
))  # fmt: skip
_UNSEEN_STYLE = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|(?:font-size|opacity)\s*:\s*0(?:px|pt|em|rem|%)?\s*(?:;|!|\Z)", re.I
)
_SPACE = re.compile(r"[ \t\n\f]+")
_DEEPEST = 8  # levels of indent of a list


class HtmlParser(Parser):
    """Reads HTML and XHTML; scripts, styles and hidden elements are left out, menus too where the page marks its main part."""

    media_types = ("text/html",)

    def parse(self, data: bytes, name: str) -> Parsed:
        page = LexborHTMLParser(decode(data, name, markup=True))
        walker = _Walker(menus=page.css_first("main, article, [role=main]") is None)
        if page.body is not None:
            walker.walk(page.body)
        text = "\n\n".join(walker.pieces)
        if blank(text):
            raise UnreadableDocument(f"{name!r} is empty: the page shows no text")
        title = page.head.css_first("title") if page.head is not None else None
        if title is not None:
            return Parsed(text, walker.blocks, title=" ".join(title.text().split()))
        headings = (text[block.start : block.end] for block in walker.blocks if block.kind == "heading")
        return Parsed(text, walker.blocks, title=next(headings, ""))


class _Walker:
    """Collects pieces of text and the blocks that they are."""

    def __init__(self, *, menus: bool) -> None:
        self.pieces: list[str] = []
        self.blocks: list[Block] = []
        self._menus, self._outline = menus, Outline()
        self._length = 0  # of the pieces, each with two line ends behind it
        self._open = Counter[str]()  # block elements by tag
        self._inline: list[str] = []
        self._lines: list[str] = []  # of the list or table that is open
        self._row: list[str] = []
        self._markers: list[Iterator[str]] = []  # of the open lists: those of the items to come
        self._marker = ""

    def walk(self, body: Any) -> None:
        """Visit every node that can be seen; without recursion, for pages nest a hundred thousand deep."""
        stack: list[Any] = [body]
        while stack:
            node = stack.pop()
            if isinstance(node, str):
                self._leave(node)
            elif node.is_text_node:
                text = node.text_content or ""
                self._inline.append(text if self._open["pre"] else _SPACE.sub(" ", text))
            elif node.is_element_node and self._seen(node.tag, node.attributes):
                stack += (self._enter(node), *reversed(list(node.iter(include_text=True))))
        self._flush()

    def _seen(self, tag: str, attributes: Mapping[str, str | None]) -> bool:
        if tag in _UNSEEN or "hidden" in attributes or _UNSEEN_STYLE.search(attributes.get("style") or ""):
            return False
        return "open" in attributes if tag == "dialog" else tag != "nav" or self._menus

    def _enter(self, node: Any) -> str:
        """Open an element and return the tag to leave it by."""
        tag: str = node.tag
        if tag == "br":
            self._inline.append(" " if self._open["table"] else "\n")
        if tag not in _BLOCKS:
            return tag
        if tag in _TABLE_PARTS and not self._open["table"] and (tag != "table" or _is_layout(node)):
            tag = "div"
        self._flush()
        self._open[tag] += 1
        if tag == "ol":
            start = node.attributes.get("start") or ""
            self._markers.append(map("{}. ".format, count(int(start) if start.isdecimal() and len(start) < 10 else 1)))
        elif tag in _LISTS:
            self._markers.append(repeat("- "))
        elif tag == "li":
            self._marker = next(self._markers[-1]) if self._markers else "- "
        return tag

    def _leave(self, tag: str) -> None:
        if tag not in _BLOCKS:
            return
        if tag in _TABLE_PARTS and self._open["table"]:
            self._leave_table(tag)
        elif tag in _HEADINGS and not (self._open["table"] or self._markers):
            if text := self._take():
                self._outline.enter(int(tag[1]), text)
                self._emit("heading", text)
        else:
            self._flush()
        self._open[tag] -= 1
        if tag in _LISTS:
            self._markers.pop()
        if self._lines and (tag in _LISTS or tag == "table") and not (self._open["table"] or self._markers):
            self._emit("table" if tag == "table" else "list", "\n".join(self._lines))
            self._lines = []

    def _leave_table(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._row.append(self._take())
        elif tag == "caption" and (caption := self._take()):
            self._lines.append(caption)
        elif tag in ("tr", "table"):
            if any(self._row):
                self._lines.append("| " + " | ".join(self._row) + " |")
            self._row = []

    def _flush(self) -> None:
        """End the run of text that is open; inside a cell it only gets a space."""
        if self._open["table"]:
            self._inline.append(" ")
        elif self._open["pre"]:
            self._add("code", "".join(self._inline).strip("\n").rstrip())
            self._inline = []
        else:
            self._add("quote" if self._open["blockquote"] else "paragraph", self._take())

    def _take(self) -> str:
        lines = (" ".join(line.split()) for line in "".join(self._inline).split("\n"))
        self._inline = []
        return (" " if self._open["table"] else "\n").join(line for line in lines if line)

    def _add(self, kind: Kind, text: str) -> None:
        """Make a block of a text, or lines of the list that is open."""
        if text.strip() and self._markers:
            first = "  " * (min(len(self._markers), _DEEPEST) - 1) + (self._marker or "  ")
            self._lines.append(first + text.replace("\n", "\n" + " " * len(first)))
            self._marker = ""
        elif text.strip():
            self._emit(kind, text)

    def _emit(self, kind: Kind, text: str) -> None:
        self.pieces.append(text)
        self.blocks.append(Block(kind, self._length, self._length + len(text), self._outline.path))
        self._length += len(text) + 2


def _is_layout(table: Any) -> bool:
    """Say whether a table only places things on the page: it holds headings or other tables."""
    return any(node.mem_id != table.mem_id for node in table.css(", ".join(("table", *_HEADINGS))))

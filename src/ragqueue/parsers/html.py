"""Read HTML: what a reader of the page sees, block by block."""

import re
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
        return Parsed(text, walker.blocks, title=" ".join(title.text().split()) if title is not None else walker.first_heading)


class _Walker:
    """Collects pieces of text and the blocks that they are."""

    def __init__(self, *, menus: bool) -> None:
        self.pieces: list[str] = []
        self.blocks: list[Block] = []
        self.first_heading = ""
        self._menus = menus
        self._length = 0  # of the pieces, each with two line ends behind it
        self._outline = Outline()
        self._inline: list[str] = []
        self._lines: list[str] = []  # of the list or table that is open
        self._row: list[str] = []
        self._counters: list[int | None] = []  # of the open lists: the number of the next item, None for bullets
        self._marker = ""
        self._tables = self._pres = self._quotes = 0

    def walk(self, body: Any) -> None:
        """Visit every node that can be seen; without recursion, for pages nest a hundred thousand deep."""
        stack: list[Any] = [body]
        while stack:
            node = stack.pop()
            if isinstance(node, str):
                self._leave(node)
            elif node.is_text_node:
                text = node.text_content or ""
                self._inline.append(text if self._pres else _SPACE.sub(" ", text))
            elif node.is_element_node and self._seen(node):
                tag = self._enter(node)
                stack.append(tag)
                stack.extend(reversed(list(node.iter(include_text=True))))
        self._flush()

    def _seen(self, node: Any) -> bool:
        tag, attributes = node.tag, node.attributes
        if tag in _UNSEEN or "hidden" in attributes or (tag == "dialog" and "open" not in attributes):
            return False
        if tag == "nav" and not self._menus:
            return False
        return not _UNSEEN_STYLE.search(attributes.get("style") or "")

    def _enter(self, node: Any) -> str:
        """Open an element and return the tag to leave it by."""
        tag: str = node.tag
        if tag == "br":
            self._inline.append("\n" if not self._tables else " ")
        if tag not in _BLOCKS:
            return tag
        if tag in _TABLE_PARTS and not self._tables and (tag != "table" or _is_layout(node)):
            tag = "div"
        self._flush()
        if tag in _LISTS:
            start = str(node.attributes.get("start") or "1")
            self._counters.append((int(start) if start.isdecimal() and len(start) < 10 else 1) if tag == "ol" else None)
        elif tag == "li":
            self._marker = self._next_marker()
        self._tables += tag == "table"
        self._pres += tag == "pre"
        self._quotes += tag == "blockquote"
        return tag

    def _leave(self, tag: str) -> None:
        if tag not in _BLOCKS:
            return
        if tag in _TABLE_PARTS and self._tables:
            self._leave_table(tag)
            return
        if tag in _HEADINGS and not self._compound:
            self._heading(int(tag[1]))
        self._flush()
        self._pres -= tag == "pre"
        self._quotes -= tag == "blockquote"
        if tag in _LISTS:
            self._counters.pop()
            self._close("list")

    @property
    def _compound(self) -> bool:
        return bool(self._tables or self._counters)

    def _leave_table(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._row.append(self._take())
        elif tag == "caption" and (caption := self._take()):
            self._lines.append(caption)
        if tag in ("tr", "table") and any(self._row):
            self._lines.append("| " + " | ".join(self._row) + " |")
        if tag in ("tr", "table"):
            self._row = []
        if tag == "table":
            self._tables -= 1
            self._close("table")

    def _close(self, kind: Kind) -> None:
        if not self._compound and self._lines:
            self._emit(kind, "\n".join(self._lines))
            self._lines = []

    def _heading(self, level: int) -> None:
        if text := self._take():
            self._outline.enter(level, text)
            self.first_heading = self.first_heading or text
            self._emit("heading", text)

    def _flush(self) -> None:
        """End the run of text that is open; inside a cell it only gets a space."""
        if self._tables:
            self._inline.append(" ")
        elif self._pres:
            self._emit_or_add("code", "".join(self._inline).strip("\n").rstrip())
            self._inline = []
        else:
            self._emit_or_add("quote" if self._quotes else "paragraph", self._take())

    def _emit_or_add(self, kind: Kind, text: str) -> None:
        if not text.strip():
            return
        if not self._counters:
            self._emit(kind, text)
            return
        indent = "  " * (min(len(self._counters), _DEEPEST) - 1)
        rest = indent + " " * len(self._marker or "- ")
        self._lines += [(indent + self._marker if self._marker and not at else rest) + line for at, line in enumerate(text.split("\n"))]
        self._marker = ""

    def _next_marker(self) -> str:
        if not self._counters or self._counters[-1] is None:
            return "- "
        self._counters[-1] += 1
        return f"{self._counters[-1] - 1}. "

    def _take(self) -> str:
        lines = (" ".join(line.split()) for line in "".join(self._inline).split("\n"))
        self._inline = []
        return "\n".join(line for line in lines if line) if not self._tables else " ".join(line for line in lines if line)

    def _emit(self, kind: Kind, text: str) -> None:
        self.pieces.append(text)
        self.blocks.append(Block(kind, self._length, self._length + len(text), self._outline.path))
        self._length += len(text) + 2


def _is_layout(table: Any) -> bool:
    """Say whether a table only places things on the page: it holds headings or other tables."""
    return any(node.mem_id != table.mem_id for node in table.css("table, h1, h2, h3, h4, h5, h6"))

"""Read Markdown (CommonMark, tables, front matter).

The text is the source itself, so that a quote stands in the file byte for byte.
"""

import itertools
import re
from collections.abc import Iterator

from markdown_it import MarkdownIt

from ragqueue.parsers.base import Parser, with_heading
from ragqueue.parsers.text import decode
from ragqueue.types import Block, Kind, Parsed

_KINDS: dict[str, Kind] = {
    "heading_open": "heading",
    "paragraph_open": "paragraph",
    "bullet_list_open": "list",
    "ordered_list_open": "list",
    "table_open": "table",
    "fence": "code",
    "code_block": "code",
    "blockquote_open": "quote",
    "html_block": "paragraph",
}
# Front matter (YAML or TOML): a key, then keys, empty lines, continued or listed values and
# comments up to the closing rule.
_FRONT = re.compile(
    r"""(---|\+\+\+)[ \t]*\n(?=(?:\#.*\n|\s)*[\w."'-]+[ \t]*[:=])"""
    r"""(?:(?!(?:\1|\.\.\.)[ \t]*$)(?:[\w."'-]+[ \t]*[:=]|[ \t\#\])}-]|$).*\n)*+"""
    r"""(?:\1|\.\.\.)[ \t]*(?:\n|\Z)""",
    re.M,
)
_FRONT_TITLE = re.compile(r"^title[ \t]*[:=][ \t]*[\"']?(.+?)[\"']?[ \t]*$", re.M)
_UNSEEN = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style|template)\b.*?(?:</\1\s*>|\Z)", re.S | re.I)
_TAGS = re.compile(r"(?:\s|<[^<>]*>)*+")  # and nothing else: no block
_INK = re.compile(r"\S(?:.*\S)?", re.S)
_CODE = re.compile(r"[^\S\n]*\S(?:.*\S)?", re.S)  # the indent of its first line is part of it
_ATTRIBUTES = re.compile(r"\{[^{}]*\}\s*\Z")  # "# Install { #install }"
_NESTING = {"maxNesting": 100}
_BLOCKS = MarkdownIt("commonmark", _NESTING).enable("table").disable(["inline", "text_join"])
_INLINE = MarkdownIt("commonmark", _NESTING)


class MarkdownParser(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        text = decode(data, name)
        front = _FRONT.match(text)
        body_start = front.end() if front else 0
        # Front matter becomes empty lines for the parser, so that its line numbers stay those of
        # the text.
        tokens = _BLOCKS.parse("\n" * text.count("\n", 0, body_start) + text[body_start:])
        line_starts = [0, *itertools.accumulate(len(line) + 1 for line in text.split("\n"))]
        title = _front_title(text, body_start)
        outline: dict[int, str] = {}
        blocks: list[Block] = []
        for index, token in enumerate(tokens):
            if token.level or token.map is None or token.type not in _KINDS:
                continue
            if token.type == "heading_open":
                heading = _plain(tokens[index + 1].content)
                outline = with_heading(outline, int(token.tag[1:]), heading)
                if token.tag == "h1":
                    title = title or heading
            first_line, end_line = token.map
            start = line_starts[first_line]
            end = min(line_starts[end_line], len(text))
            heading_path = tuple(outline.values())
            blocks.extend(_blocks(text, start, end, token.type, heading_path))
        return Parsed(text=text, blocks=blocks, title=title)


def _front_title(text: str, body_start: int) -> str:
    """Return the title that the front matter gives, or nothing."""
    title = _FRONT_TITLE.search(text, 0, body_start)
    return title[1].strip() if title else ""


def _plain(heading: str) -> str:
    """Return the source of a heading as its reader sees it: without markup and attributes."""
    inline = _INLINE.parseInline(_ATTRIBUTES.sub("", heading))[0]
    pieces = []
    for child in inline.children or []:
        if child.type == "softbreak":
            pieces.append(" ")
        elif child.type != "html_inline":
            pieces.append(child.content)
    return " ".join("".join(pieces).split())


def _blocks(
    text: str, start: int, end: int, token_type: str, heading_path: tuple[str, ...]
) -> Iterator[Block]:
    """Yield the blocks of a token that spans `text[start:end]`: without space around them."""
    kind = _KINDS[token_type]
    ink_of = _CODE if kind == "code" else _INK
    spans = _seen_spans(text, start, end) if token_type == "html_block" else [(start, end)]
    for span in spans:
        ink = ink_of.search(text, *span)
        if ink and not _TAGS.fullmatch(text, *span):
            yield Block(kind=kind, start=ink.start(), end=ink.end(), heading_path=heading_path)


def _seen_spans(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches of `text[start:end]` between what no reader of the page sees."""
    for unseen in _UNSEEN.finditer(text, start, end):
        yield start, unseen.start()
        start = unseen.end()
    yield start, end

"""Read Markdown: the canonical text is the source itself, so that a quote stands in the file byte for byte."""

import itertools
import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

from ragqueue.parsers.base import Parser
from ragqueue.parsers.charset import decode
from ragqueue.parsers.outline import Kind, Outline
from ragqueue.types import Block, Parsed

_KINDS: dict[str, Kind] = {
    "heading_open": "heading", "paragraph_open": "paragraph", "bullet_list_open": "list", "ordered_list_open": "list", "table_open": "table",
    "fence": "code", "code_block": "code", "blockquote_open": "quote", "html_block": "paragraph",
}  # fmt: skip
_FRONT_KEY = re.compile(r"[\w.\"'-]+[ \t]*[:=]")
_FRONT_REST = re.compile(r"\s*\Z|\s+\S|[#\])}-]")  # empty, continued or listed values, comments
_FRONT_TITLE = re.compile(r"^title[ \t]*[:=][ \t]*[\"']?(.+?)[\"']?[ \t]*$", re.M)
_UNSEEN = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style|template)\b.*?(?:</\1\s*>|\Z)", re.S | re.I)
_TAG = re.compile(r"<[^<>]*>")
_ATTRIBUTES = re.compile(r"\{[^{}]*\}\s*\Z")  # "# Install { #install }"


class MarkdownParser(Parser):
    """Reads Markdown (CommonMark and tables); front matter gives the title and is no block."""

    media_types = ("text/markdown",)

    def __init__(self) -> None:
        self._markdown = MarkdownIt("commonmark", {"maxNesting": 100}).enable("table").disable(["inline", "text_join"])

    def parse(self, data: bytes, name: str) -> Parsed:
        text = decode(data, name)
        front = _front_matter(text)
        # Front matter becomes empty lines for the parser, so that its line numbers stay those of the text.
        tokens = self._markdown.parse("\n" * text.count("\n", 0, front) + text[front:])
        lines = [0, *itertools.accumulate(len(line) + 1 for line in text.split("\n"))]
        match = _FRONT_TITLE.search(text, 0, front)
        title = match[1].strip() if match else ""
        outline, blocks = Outline(), list[Block]()
        for at, token in enumerate(tokens):
            kind = _KINDS.get(token.type)
            if kind is None or token.level or token.map is None:
                continue
            if kind == "heading":
                heading = self._plain(tokens[at + 1])
                outline.enter(int(token.tag[1:]), heading)
                title = title or (heading if token.tag == "h1" else "")
            start, end = lines[token.map[0]], min(lines[token.map[1]], len(text))
            for span in _seen(text, start, end) if token.type == "html_block" else [(start, end)]:
                blocks += _block(text, kind, *span, outline.path)
        return Parsed(text, blocks, title=title)

    def _plain(self, inline: Token) -> str:
        children: list[Token] = []
        self._markdown.inline.parse(_ATTRIBUTES.sub("", inline.content), self._markdown, {}, children)
        shown = (" " if child.type == "softbreak" else child.content for child in children if child.type != "html_inline")
        return " ".join("".join(shown).split())


def _front_matter(text: str) -> int:
    """Return where the front matter (YAML or TOML) ends; 0 when what stands between the rules is none."""
    first, *rest = text.split("\n")
    fence, end, keys = first.rstrip(), len(first) + 1, False
    for line in rest if fence in ("---", "+++") else ():
        end += len(line) + 1
        if line.rstrip() in (fence, "..."):
            return min(end, len(text)) if keys else 0
        if not (_FRONT_KEY.match(line) or _FRONT_REST.match(line)):
            break
        keys = keys or _FRONT_KEY.match(line) is not None
    return 0


def _seen(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches of raw HTML that a reader of the page sees something of."""
    for unseen in _UNSEEN.finditer(text, start, end):
        yield start, unseen.start()
        start = unseen.end()
    yield start, end


def _block(text: str, kind: Kind, start: int, end: int, path: tuple[str, ...]) -> list[Block]:
    piece = text[start:end]
    if not (_TAG.sub("", piece) if piece.lstrip().startswith("<") else piece).strip():
        return []
    lead = len(piece) - len(piece.lstrip())
    if kind == "code":  # the indent of its first line is part of it
        lead = piece.rfind("\n", 0, lead) + 1
    return [Block(kind, start + lead, start + len(piece.rstrip()), path)]

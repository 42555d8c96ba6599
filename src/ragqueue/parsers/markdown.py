"""Read Markdown (CommonMark, tables, front matter): the text is the source itself, so that a quote stands in the file byte for byte."""

import itertools
import re

from markdown_it import MarkdownIt

from ragqueue.parsers.base import Parser, opened
from ragqueue.parsers.text import decode
from ragqueue.types import Block, Kind, Parsed

_KINDS: dict[str, Kind] = {
    "heading_open": "heading", "paragraph_open": "paragraph", "bullet_list_open": "list", "ordered_list_open": "list", "table_open": "table",
    "fence": "code", "code_block": "code", "blockquote_open": "quote", "html_block": "paragraph",
}  # fmt: skip
# Front matter (YAML or TOML): a key, then keys, empty lines, continued or listed values and comments up to the closing rule.
_FRONT = re.compile(
    r"""(---|\+\+\+)[ \t]*\n(?=(?:\#.*\n|\s)*[\w."'-]+[ \t]*[:=])(?:(?!(?:\1|\.\.\.)[ \t]*$)(?:[\w."'-]+[ \t]*[:=]|[ \t\#\])}-]|$).*\n)*+"""
    r"""(?:\1|\.\.\.)[ \t]*(?:\n|\Z)""", re.M,
)  # fmt: skip
_FRONT_TITLE = re.compile(r"^title[ \t]*[:=][ \t]*[\"']?(.+?)[\"']?[ \t]*$", re.M)
_UNSEEN = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style|template)\b.*?(?:</\1\s*>|\Z)", re.S | re.I)
_TAGS = re.compile(r"(?:\s|<[^<>]*>)*+")  # and nothing else: no block
_INK = re.compile(r"\S(?:.*\S)?", re.S)
_CODE = re.compile(r"[^\S\n]*\S(?:.*\S)?", re.S)  # the indent of its first line is part of it
_ATTRIBUTES = re.compile(r"\{[^{}]*\}\s*\Z")  # "# Install { #install }"
_BLOCKS = (
    MarkdownIt("commonmark", {"maxNesting": 100}).enable("table").disable(["inline", "text_join"])
)
_INLINE = MarkdownIt("commonmark", {"maxNesting": 100})


class MarkdownParser(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        text = decode(data, name)
        front = match.end() if (match := _FRONT.match(text)) else 0
        # Front matter becomes empty lines for the parser, so that its line numbers stay those of the text.
        tokens = _BLOCKS.parse("\n" * text.count("\n", 0, front) + text[front:])
        lines = [0, *itertools.accumulate(len(line) + 1 for line in text.split("\n"))]
        title = found[1].strip() if (found := _FRONT_TITLE.search(text, 0, front)) else ""
        outline, blocks = dict[int, str](), list[Block]()
        for at, token in enumerate(tokens):
            if token.level or token.map is None or token.type not in _KINDS:
                continue
            if token.type == "heading_open":
                children = (
                    _INLINE.parseInline(_ATTRIBUTES.sub("", tokens[at + 1].content))[0].children
                    or []
                )
                shown = (
                    " " if child.type == "softbreak" else child.content
                    for child in children
                    if child.type != "html_inline"
                )
                heading = " ".join("".join(shown).split())
                outline = opened(outline, int(token.tag[1:]), heading)
                title = title or (heading if token.tag == "h1" else "")
            edges = [lines[token.map[0]], min(lines[token.map[1]], len(text))]
            if token.type == "html_block":  # the stretches between what no reader of the page sees
                edges[1:1] = itertools.chain.from_iterable(
                    unseen.span() for unseen in _UNSEEN.finditer(text, *edges)
                )
            for span in zip(edges[::2], edges[1::2], strict=True):
                ink = (_CODE if _KINDS[token.type] == "code" else _INK).search(text, *span)
                if ink and not _TAGS.fullmatch(text, *span):
                    blocks.append(Block(_KINDS[token.type], *ink.span(), tuple(outline.values())))
        return Parsed(text, blocks, title=title)

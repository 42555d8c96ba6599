"""Read plain text: paragraphs between empty lines."""

import re

from ragqueue.parsers.base import Parser
from ragqueue.parsers.charset import decode
from ragqueue.types import Block, Parsed

_PARAGRAPH = re.compile(r"\S(?:.*\S)?(?:[^\S\n]*\n.*\S)*+")  # possessive: a log is one paragraph of a million lines


class TextParser(Parser):
    """Reads plain text; knows no headings."""

    media_types = ("text/plain",)

    def parse(self, data: bytes, name: str) -> Parsed:
        text = decode(data, name)
        return Parsed(text, [Block("paragraph", *match.span()) for match in _PARAGRAPH.finditer(text)])

"""Read plain text: paragraphs between empty lines."""

from ragqueue.parsers.base import Parser
from ragqueue.parsers.charset import decode
from ragqueue.types import Block, Parsed


class TextParser(Parser):
    """Reads plain text; knows no headings."""

    media_types = ("text/plain",)

    def parse(self, data: bytes, name: str) -> Parsed:
        text = decode(data, name)
        return Parsed(text, [Block("paragraph", start, end) for start, end in paragraphs(text, 0, len(text))])


def paragraphs(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Return the spans of the paragraphs of `text[start:end]`, trimmed."""
    spans: list[tuple[int, int]] = []
    first = last = -1  # of the paragraph that is open
    at = start
    for line in text[start:end].split("\n"):
        if body := line.strip():
            begin = at + len(line) - len(line.lstrip())
            first, last = (begin if first < 0 else first), begin + len(body)
        elif first >= 0:
            spans.append((first, last))
            first = -1
        at += len(line) + 1
    return [*spans, (first, last)] if first >= 0 else spans

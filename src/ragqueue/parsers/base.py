"""The port to a parser: the bytes of a file become one canonical text and blocks over it."""

from abc import ABC, abstractmethod

from ragqueue.types import Parsed


class Parser(ABC):
    """Reads one family of formats; runs in a child process that may be killed at any time."""

    @abstractmethod
    def parse(self, data: bytes, name: str) -> Parsed:
        """Return text and blocks; block offsets are exact and rise. Raises UnreadableDocument naming the cause."""


def opened(outline: dict[int, str], level: int, heading: str) -> dict[int, str]:
    """Return the open headings by level once this one has begun, cut to 200 characters: it closes those of its level and below."""
    title = " ".join(heading.split())[:200]
    return {above: text for above, text in outline.items() if above < level} | (
        {level: title} if title else {}
    )

"""The port to a parser: the bytes of a file become one canonical text and blocks over it."""

from abc import ABC, abstractmethod

from ragqueue.types import Parsed


class Parser(ABC):
    """Reads one family of formats; runs in a child process that may be killed at any time."""

    @abstractmethod
    def parse(self, data: bytes, name: str) -> Parsed:
        """Return text and blocks; block offsets are exact and rise.

        Raises UnreadableDocument naming the cause.
        """


def with_heading(outline: dict[int, str], level: int, heading: str) -> dict[int, str]:
    """Return the open headings by level once this heading has begun, cut to 200 characters.

    It closes those of its level and below.
    """
    still_open = {above: title for above, title in outline.items() if above < level}
    title = " ".join(heading.split())[:200]
    if title:
        still_open[level] = title
    return still_open

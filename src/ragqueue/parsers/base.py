"""The port to a parser: the bytes of a file become one canonical text and blocks over it."""

from abc import ABC, abstractmethod

from ragqueue.types import Parsed


class Parser(ABC):
    """Reads one family of formats; runs in a child process that may be killed at any time."""

    media_types: tuple[str, ...]

    @abstractmethod
    def parse(self, data: bytes, name: str) -> Parsed:
        """Return text and blocks; block offsets are exact and rise. Raises UnreadableDocument naming the cause."""

"""Keep the headings that are open at a point of a document."""

from typing import Literal

Kind = Literal["heading", "paragraph", "list", "table", "code", "quote"]  # of a block

_LONGEST = 200  # characters of a heading in a path: every block below it carries the path


class Outline:
    """Turns headings, as they come, into the path of what follows them."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []
        self.path: tuple[str, ...] = ()

    def enter(self, level: int, heading: str) -> None:
        """Close every heading of this level and below; open this one unless it is blank."""
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        if title := " ".join(heading.split())[:_LONGEST]:
            self._open.append((level, title))
        self.path = tuple(title for _, title in self._open)

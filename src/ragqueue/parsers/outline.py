"""Keep the headings that are open at a point of a document."""

from typing import Literal

Kind = Literal["heading", "paragraph", "list", "table", "code", "quote"]  # of a block


class Outline:
    """Turns headings, as they come, into the path of what follows them."""

    path: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._open: dict[int, str] = {}  # by level

    def enter(self, level: int, heading: str) -> None:
        """Close every heading of this level and below; open this one, cut to 200 characters, unless it is blank."""
        self._open = {above: title for above, title in self._open.items() if above < level}
        if title := " ".join(heading.split())[:200]:
            self._open[level] = title
        self.path = tuple(self._open.values())

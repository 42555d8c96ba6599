"""How many connections each caller may hold open: one that takes them all would leave none for anybody's health check."""

from collections import Counter

from ragqueue.errors import TooManyStreams

RESERVED = 200  # open files that other requests, the records and the brokers need


class Streams:
    """Counts the streams, and the answers that are waited for, of one process."""

    def __init__(self, *, each: int, files: int) -> None:
        """`each`: of one caller; `files`: that this process may have open."""
        self._each, self._most = each, max(1, files - RESERVED)
        self._open: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return self._open.total()

    def enter(self, caller: str) -> None:
        """Count one more. Raises TooManyStreams."""
        if self._open[caller] >= self._each:
            raise TooManyStreams(
                f"{self._each} streams of yours are open: close some, or raise RAGQUEUE_STREAMS",
                retry_after=5.0,
            )
        if self.total >= self._most:
            raise TooManyStreams(
                f"{self._most} streams are open, and this process cannot hold more", retry_after=5.0
            )
        self._open[caller] += 1

    def leave(self, caller: str) -> None:
        """Count one less."""
        self._open[caller] -= 1
        if not self._open[caller]:
            del self._open[caller]

"""How many connections each caller may hold open.

A caller that takes them all would leave none for anybody's health check.
"""

from collections import Counter

from ragqueue.errors import TooManyStreams

RESERVED = 200  # open files that other requests, the records and the brokers need
RETRY_AFTER = 5.0  # seconds until a stream may have ended


class Streams:
    """Counts the streams, and the answers that are waited for, of one process."""

    def __init__(self, *, each: int, files: int) -> None:
        """`each`: of one caller; `files`: that this process may have open."""
        self._limit_of_caller = each
        self._limit_of_process = max(1, files - RESERVED)
        self._open: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return self._open.total()

    def enter(self, caller: str) -> None:
        """Count one more. Raises TooManyStreams."""
        if self._open[caller] >= self._limit_of_caller:
            raise TooManyStreams(
                f"{self._limit_of_caller} streams of yours are open: "
                "close some, or raise RAGQUEUE_STREAMS",
                retry_after=RETRY_AFTER,
            )
        if self.total >= self._limit_of_process:
            raise TooManyStreams(
                f"{self._limit_of_process} streams are open, and this process cannot hold more",
                retry_after=RETRY_AFTER,
            )
        self._open[caller] += 1

    def leave(self, caller: str) -> None:
        """Count one less."""
        self._open[caller] -= 1
        if not self._open[caller]:
            del self._open[caller]

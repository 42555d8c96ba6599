"""A queue of one's own that cannot work any more once it was started."""

from collections.abc import Sequence

from ragqueue.adapters import Given
from ragqueue.errors import ConfigError
from ragqueue.queues.base import Handle, JobQueue
from ragqueue.types import Ring


class UnfitLater(JobQueue):
    def __init__(self, given: Given) -> None:
        self._checked = 0

    async def ring(self, rings: Sequence[Ring]) -> None: ...

    async def depth(self, lane: str) -> int:
        return 0

    async def work(self, handle: Handle, lane: str, concurrency: int) -> None: ...

    async def check(self) -> Sequence[str]:
        self._checked += 1
        if self._checked > 1:
            raise ConfigError("the broker takes no more")
        return ()

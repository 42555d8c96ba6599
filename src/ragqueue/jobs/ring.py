"""Tell the queue engine which jobs may be claimable, in batches."""

import asyncio
from collections.abc import Iterable

from msgspec import structs

from ragqueue.patience import patiently
from ragqueue.queues.base import JobQueue
from ragqueue.types import Ring

MOST_KEPT = 20_000  # rings kept while the engine is away; reconcile finds what is dropped


class Ringer:
    """Rings the doorbell of the process's queue engine: sends what piled up while it last sent."""

    def __init__(self, queue: JobQueue, database: str) -> None:
        self.waiting: list[Ring] = []  # on their way to the engine
        self._queue = queue
        self._database = database
        self._sending = asyncio.Lock()
        self._noticed = asyncio.Event()

    def ring(self, rings: Iterable[Ring]) -> None:
        """Send the rings soon."""
        self.waiting += [structs.replace(ring, database=self._database) for ring in rings]
        self._noticed.set()

    async def flush(self) -> None:
        """Send what waits now. Raises Unavailable, after which it still waits."""
        async with self._sending:
            del self.waiting[:-MOST_KEPT]
            rings = list(self.waiting)
            await self._queue.ring(rings)
            del self.waiting[: len(rings)]

    async def step(self) -> None:
        """Send what piled up; waits until there is something, and for an engine that is away."""
        if not self.waiting:
            self._noticed.clear()
            await self._noticed.wait()
        await patiently(self.flush)

"""Send rings outside of any request: one self-clocking ringer a process sends what piled up."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace

from ragqueue.errors import Unavailable
from ragqueue.queues.base import JobQueue
from ragqueue.types import Ring

_MOST_KEPT = 20_000  # rings kept while the engine is away; reconcile finds what is dropped

logger = logging.getLogger(__name__)


class Ringer:
    """Rings the doorbell of the process's queue engine."""

    def __init__(self, queue: JobQueue, database: str) -> None:
        self._queue, self._database = queue, database
        self._waiting: list[Ring] = []
        self._sending = 0
        self._noticed = asyncio.Event()

    def ring(self, rings: Iterable[Ring]) -> None:
        """Send the rings soon."""
        self._waiting += [replace(ring, database=self._database) for ring in rings]
        del self._waiting[:-_MOST_KEPT]
        self._noticed.set()

    @property
    def busy(self) -> bool:
        """Whether rings of this process are still on their way to the engine."""
        return bool(self._waiting or self._sending)

    async def flush(self) -> None:
        """Send what waits now. Raises Unavailable, after which it still waits."""
        rings, self._waiting = self._waiting, []
        self._sending += 1
        try:
            if rings:
                await self._queue.ring(rings)
        except Unavailable:
            self._waiting = rings + self._waiting
            raise
        finally:
            self._sending -= 1

    async def run(self) -> None:
        """Send what piled up, for ever; an engine that is away is waited for."""
        pause = 0.05
        while True:
            await self._noticed.wait()
            self._noticed.clear()
            try:
                await self.flush()
                pause = 0.05
            except Unavailable as error:
                logger.warning("ringer.unavailable: %s", error)
                await asyncio.sleep(pause)
                pause = min(1.0, pause * 2)
                self._noticed.set()

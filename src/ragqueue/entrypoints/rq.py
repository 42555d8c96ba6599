"""What RQ's launchers import: the one job function, and our worker class with a runtime."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from ragqueue.errors import ConfigError
from ragqueue.queues.base import Handle, ring_of
from ragqueue.queues.rq import QUEUE_PREFIX, ConcurrentWorker
from ragqueue.types import LANES


async def _live(lane: str, use: Callable[[Handle, int], Awaitable[None]]) -> None:
    """Give the handle and the concurrency of a runtime's worker to `use`; at its end the worker drains."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Imported only where it runs: what forks (RQ's Worker, a scheduler) must not have loaded native libraries.
    from ragqueue.settings import load
    from ragqueue.wiring import open_runtime

    settings, _ = load()
    async with open_runtime(settings) as runtime:
        worker = runtime.worker(lanes={lane: runtime.lanes[lane]})
        worker.start()
        try:
            await use(worker.handle, runtime.lanes[lane])
        finally:
            await worker.drain(settings.drain)


def handle(job_id: str, lane: str, database: str, stamp: float, front: bool) -> None:
    """Run the job of one ring in this process, for RQ's own Worker and SimpleWorker. Raises ConfigError, Unavailable."""
    ring = ring_of([job_id, lane, database, stamp, front])
    asyncio.run(_live(ring.lane, lambda handle_ring, _: handle_ring(ring)))


class AsyncWorker(ConcurrentWorker):
    """Our worker for `rq worker -w ragqueue.entrypoints.rq.AsyncWorker --with-scheduler ragqueue-chat`."""

    def work(self, burst: bool = False, *, with_scheduler: bool = False, **options: Any) -> bool:
        """Work until told to stop (burst: until the queue is empty), then drain. Raises ConfigError, Unavailable."""
        lane = self.queue_names()[0].removeprefix(QUEUE_PREFIX) if len(self.queues) == 1 else ""
        if lane not in LANES or {options.pop("max_jobs", None), options.pop("max_idle_time", None)} != {None}:
            known = " or ".join(QUEUE_PREFIX + lane for lane in LANES)
            raise ConfigError(f"this worker takes exactly one queue, {known}, and neither --max-jobs nor --max-idle-time")
        options.pop("dequeue_strategy", None)  # one queue needs none
        self.bootstrap(**options)
        try:
            if with_scheduler:  # forks, so it comes before every thread of ours
                self._start_scheduler(burst, **options)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: self._stopping.set())
            asyncio.run(_live(lane, partial(self.consume, burst=burst)))
        finally:
            self.retire()
        return True

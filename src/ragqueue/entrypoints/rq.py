"""What RQ's launchers import: the one job function, and our worker classes by their names."""

import asyncio
import os
from collections.abc import Awaitable, Callable

from ragqueue.queues.base import Handle, ring_of


async def live(lane: str, use: Callable[[Handle, int], Awaitable[None]]) -> None:
    """Give the handle and the concurrency of a runtime's worker to `use`.

    At its end the worker drains. Raises Unavailable when a loop of the process is beyond help.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Imported only where it runs: what forks (RQ's Worker, a scheduler) must not have loaded
    # native libraries.
    from ragqueue.settings import load
    from ragqueue.wiring import open_runtime
    from ragqueue.working.limits import raise_open_files

    raise_open_files()
    settings, _ = load()
    async with open_runtime(settings) as runtime:
        concurrency = runtime.lanes[lane]
        worker = runtime.worker(lanes={lane: concurrency})
        worker.start()
        using = asyncio.ensure_future(use(worker.handle, concurrency))
        runtime.keeper.end_with(using.cancel)
        try:
            await using
        except asyncio.CancelledError:
            runtime.keeper.check()
            raise
        finally:
            await worker.drain(0.0 if runtime.keeper.broken_loop else settings.drain)


def handle(job_id: str, lane: str, database: str, stamp: float, front: bool) -> None:
    """Run the job of one ring in this process, for Worker and SimpleWorker.

    Raises ConfigError, InvalidRequest, Unavailable.
    """
    ring = ring_of([job_id, lane, database, stamp, front])
    asyncio.run(live(ring.lane, lambda handle_ring, _: handle_ring(ring)))


def __getattr__(name: str) -> type:
    """Return a worker class of ours.

    RQ's command line asks before it connects, and what is wrong then shows as one line.
    """
    from ragqueue.entrypoints import workers

    if name not in workers.NAMES:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}: use one of {', '.join(workers.NAMES)}"
        )
    workers.look_before_start(name)
    worker_class: type = getattr(workers, name)
    return worker_class

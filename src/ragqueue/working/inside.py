"""Run a worker inside a process: consume its lanes until it is told to end."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from ragqueue.queues.base import Handle, JobQueue
from ragqueue.working.loops import Keeper, Watch
from ragqueue.working.worker import Worker


@asynccontextmanager
async def working(
    worker: Worker, queue: JobQueue, lanes: Mapping[str, int], keeper: Keeper, *, drain: float
) -> AsyncIterator[asyncio.Task[None]]:
    """Run a worker for as long as the context lasts, then let it drain for so many seconds.

    The task that the context gives ends before that when the work fails.
    """
    worker.start()
    task = asyncio.create_task(work(worker, queue, lanes, keeper))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        patience = drain
        if keeper.broken_loop:
            patience = 0.0
        await worker.drain(patience)


async def work(worker: Worker, queue: JobQueue, lanes: Mapping[str, int], keeper: Keeper) -> None:
    """Consume the lanes until cancelled, or until one of them is told to end.

    `lanes`: how many jobs of each run at once.
    """
    async with asyncio.TaskGroup() as group:
        consuming = [
            group.create_task(
                _consume(queue, worker.handle, lane, concurrency, keeper.watch("lanes")),
                name=f"lane-{lane}",
            )
            for lane, concurrency in lanes.items()
        ]
        await asyncio.wait(consuming, return_when=asyncio.FIRST_COMPLETED)
        for task in consuming:  # a process that does half of its work would look alive
            task.cancel()


async def _consume(
    queue: JobQueue, handle: Handle, lane: str, concurrency: int, watch: Watch
) -> None:
    """Consume one lane until it is told to end; a surprise is waited out."""
    while True:
        try:
            return await queue.work(handle, lane, concurrency)
        except Exception as error:  # noqa: BLE001 - what an engine raises can be anything
            await asyncio.sleep(watch.failed(error))

"""What every queue engine must do: subclass the contract with fixtures `queue` and `other`, two ends of one engine that is empty."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from ragqueue.queues.base import Handle, JobQueue
from ragqueue.types import Ring

LIMIT = 10  # seconds for anything that must happen


class Handled:
    """A handle that keeps its rings, and holds them while `gate` is closed."""

    def __init__(self, failing: str = "", *, closed: bool = False) -> None:
        self.rings: list[Ring] = []
        self.ids: dict[str, None] = {}  # in order, each once: a ring may be doubled
        self.running = self.most = 0
        self.gate, self._failing = asyncio.Event(), failing
        if not closed:
            self.gate.set()

    async def __call__(self, ring: Ring) -> None:
        self.rings.append(ring)
        self.ids[ring.job_id] = None
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
            if ring.job_id == self._failing:
                raise RuntimeError("this handle was told to fail")
        finally:
            self.running -= 1


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def working(queue: JobQueue, handle: Handle, lane: str = "chat", concurrency: int = 4) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(queue.work(handle, lane, concurrency))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, LIMIT)


def rings(count: int, lane: str = "chat", *, front: bool = False) -> list[Ring]:
    return [Ring(uuid.uuid4().hex, lane, "database", float(n), front) for n in range(count)]


class QueueContract:
    async def submit(self, queue: JobQueue, wanted: list[Ring]) -> list[str]:
        """Make jobs deliverable and return their ids; an engine whose queue is the jobs table inserts rows."""
        await queue.ring(wanted)
        return [ring.job_id for ring in wanted]

    def claiming(self, handle: Handle) -> Handle:
        """Return the handle to work with; an engine whose queue is the jobs table claims the row first."""
        return handle

    async def work(self, queue: JobQueue, wanted: list[str], concurrency: int = 4, *, failing: str = "") -> list[str]:
        """Work until these jobs were handled, and return the ids in order."""
        handled = Handled(failing)
        async with working(queue, self.claiming(handled), concurrency=concurrency):
            await until(lambda: {*handled.ids} >= {*wanted})
        return list(handled.ids)

    async def test_every_ring_of_the_lane_and_no_other_reaches_a_handle(self, queue: JobQueue, other: JobQueue) -> None:
        await self.submit(other, rings(3, "background"))
        wanted = await self.submit(other, rings(20))
        assert sorted(await self.work(queue, wanted)) == sorted(wanted)
        assert await queue.depth("background") == 3

    async def test_at_most_concurrency_handles_run_at_once_and_depth_counts_what_waits(self, queue: JobQueue) -> None:
        assert await queue.depth("chat") == 0
        await self.submit(queue, rings(12))
        assert await queue.depth("chat") == 12
        handled = Handled(closed=True)
        async with working(queue, self.claiming(handled), concurrency=3):
            await until(lambda: handled.running == 3)
            assert await queue.depth("chat") == 9
            handled.gate.set()
            await until(lambda: len(handled.ids) == 12)
        assert handled.most == 3

    async def test_two_workers_share_a_lane(self, queue: JobQueue, other: JobQueue) -> None:
        wanted = await self.submit(queue, rings(8))
        mine, theirs = Handled(closed=True), Handled(closed=True)
        async with working(queue, self.claiming(mine)), working(other, self.claiming(theirs)):
            await until(lambda: mine.running == theirs.running == 4)
            mine.gate.set()
            theirs.gate.set()
        assert {*mine.ids, *theirs.ids} == set(wanted)

    async def test_a_handle_that_fails_stops_nobody(self, queue: JobQueue) -> None:
        wanted = await self.submit(queue, rings(2))
        await self.work(queue, wanted, 1, failing=wanted[0])

    async def test_a_ring_at_the_front_is_delivered_first(self, queue: JobQueue) -> None:
        usual = await self.submit(queue, rings(3))
        [urgent] = await self.submit(queue, rings(1, front=True))
        assert (await self.work(queue, [*usual, urgent], 1))[0] == urgent

    async def test_a_doubled_ring_harms_nobody(self, queue: JobQueue) -> None:
        ring, last = rings(2)
        await self.submit(queue, [ring])
        await queue.ring([ring, ring])
        await self.submit(queue, [last])
        await self.work(queue, [ring.job_id, last.job_id])

    async def test_cancelled_work_returns_and_leaves_running_handles_alone(self, queue: JobQueue) -> None:
        await self.submit(queue, rings(4))
        handled = Handled(closed=True)
        async with working(queue, self.claiming(handled), concurrency=2):
            await until(lambda: handled.running == 2)
        assert handled.running == 2
        handled.gate.set()
        await until(lambda: handled.running == 0)
        assert (len(handled.rings), await queue.depth("chat")) == (2, 2)

    async def test_an_idle_worker_is_woken_and_what_comes_after_its_end_reaches_the_next(self, queue: JobQueue, other: JobQueue) -> None:
        handled = Handled()
        async with working(queue, self.claiming(handled)):
            for count in (1, 2):
                await self.submit(other, rings(1))
                await until(lambda count=count: len(handled.ids) == count)  # type: ignore[misc]
        await self.work(other, await self.submit(queue, rings(3)))

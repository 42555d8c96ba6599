"""What every queue engine must do."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ragqueue.queues.base import Handle, JobQueue
from ragqueue.types import Ring

LIMIT = 10  # seconds for anything that must happen


class Handled:
    """A handle that keeps its rings, and holds them while `gate` is closed."""

    def __init__(self, failing: str = "", *, closed: bool = False) -> None:
        self.rings: list[Ring] = []
        self.running = self.most = 0
        self.gate = asyncio.Event()
        self._failing = failing
        if not closed:
            self.gate.set()

    @property
    def ids(self) -> list[str]:
        """The job ids in order, each once: a ring may be doubled."""
        return list(dict.fromkeys(ring.job_id for ring in self.rings))

    async def __call__(self, ring: Ring) -> None:
        self.rings.append(ring)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
            if ring.job_id == self._failing:
                raise RuntimeError("this handle was told to fail")
        finally:
            self.running -= 1


async def until(condition: Callable[[], object]) -> None:
    """Wait until the condition holds; fails after LIMIT."""
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def working(queue: JobQueue, handle: Handle, lane: str = "chat", concurrency: int = 4) -> AsyncIterator["asyncio.Task[None]"]:
    """Work a lane inside the block."""
    task = asyncio.create_task(queue.work(handle, lane, concurrency))
    try:
        yield task
    finally:
        task.cancel()
        async with asyncio.timeout(LIMIT):
            [result] = await asyncio.gather(task, return_exceptions=True)
        if isinstance(result, Exception):
            raise result


def rings(count: int, lane: str = "chat", *, front: bool = False) -> list[Ring]:
    """Return rings for new jobs."""
    return [Ring(uuid.uuid4().hex, lane, "database", float(n), front) for n in range(count)]


class QueueContract:
    """Subclass it in a test file with fixtures `queue` and `other`: two ends of one engine that is empty."""

    async def submit(self, queue: JobQueue, wanted: list[Ring]) -> list[str]:
        """Make jobs deliverable and return their ids; an engine whose queue is the jobs table inserts rows."""
        await queue.ring(wanted)
        return [ring.job_id for ring in wanted]

    def claiming(self, handle: Handle) -> Handle:
        """Return the handle to work with; an engine whose queue is the jobs table claims the row first."""
        return handle

    async def test_every_ring_of_the_lane_and_no_other_reaches_a_handle(self, queue: JobQueue, other: JobQueue) -> None:
        await self.submit(other, rings(3, "background"))
        wanted = await self.submit(other, rings(20))
        handled = Handled()

        async with working(queue, self.claiming(handled)):
            await until(lambda: len(handled.ids) >= 20)

        assert sorted(handled.ids) == sorted(wanted)
        assert await queue.depth("background") == 3

    async def test_at_most_concurrency_handles_run_at_once(self, queue: JobQueue) -> None:
        await self.submit(queue, rings(12))
        handled = Handled(closed=True)

        async with working(queue, self.claiming(handled), concurrency=3):
            await until(lambda: handled.running == 3)
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
        first, second = await self.submit(queue, rings(2))
        handled = Handled(failing=first)

        async with working(queue, self.claiming(handled), concurrency=1):
            await until(lambda: second in handled.ids)

    async def test_depth_counts_what_waits(self, queue: JobQueue) -> None:
        assert await queue.depth("chat") == 0
        await self.submit(queue, rings(5))
        assert await queue.depth("chat") == 5
        handled = Handled(closed=True)

        async with working(queue, self.claiming(handled), concurrency=2):
            await until(lambda: handled.running == 2)
            assert await queue.depth("chat") == 3
            handled.gate.set()

    async def test_a_ring_at_the_front_is_delivered_first(self, queue: JobQueue) -> None:
        await self.submit(queue, rings(3))
        [urgent] = await self.submit(queue, rings(1, front=True))
        handled = Handled()

        async with working(queue, self.claiming(handled), concurrency=1):
            await until(lambda: len(handled.ids) == 4)

        assert handled.ids[0] == urgent

    async def test_a_doubled_ring_harms_nobody(self, queue: JobQueue) -> None:
        [ring] = rings(1)
        await self.submit(queue, [ring])
        await queue.ring([ring, ring])
        [last] = await self.submit(queue, rings(1))
        handled = Handled()

        async with working(queue, self.claiming(handled)):
            await until(lambda: set(handled.ids) == {ring.job_id, last})

    async def test_cancelled_work_returns_and_leaves_running_handles_alone(self, queue: JobQueue) -> None:
        await self.submit(queue, rings(4))
        handled = Handled(closed=True)

        async with working(queue, self.claiming(handled), concurrency=2):
            await until(lambda: handled.running == 2)
        assert handled.running == 2
        handled.gate.set()
        await until(lambda: handled.running == 0)

        assert len(handled.rings) == 2
        assert await queue.depth("chat") == 2

    async def test_an_idle_worker_is_woken_and_what_comes_after_its_end_reaches_the_next(self, queue: JobQueue, other: JobQueue) -> None:
        first, second = Handled(), Handled()
        async with working(queue, self.claiming(first)):
            for count in (1, 2):
                await self.submit(other, rings(1))
                await until(lambda count=count: len(first.ids) == count)  # type: ignore[misc]

        wanted = await self.submit(queue, rings(3))
        async with working(other, self.claiming(second)):
            await until(lambda: sorted(second.ids) == sorted(wanted))

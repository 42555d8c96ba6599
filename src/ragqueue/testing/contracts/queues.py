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

    def __init__(self, failing: str = "") -> None:
        self.rings: list[Ring] = []
        self.running = self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._failing = failing
        self._changed = asyncio.Condition()

    @property
    def ids(self) -> list[str]:
        """The job ids in order, each once: a ring may be doubled."""
        return list(dict.fromkeys(ring.job_id for ring in self.rings))

    async def __call__(self, ring: Ring) -> None:
        self.rings.append(ring)
        self.running += 1
        self.most = max(self.most, self.running)
        async with self._changed:
            self._changed.notify_all()
        try:
            await self.gate.wait()
            if ring.job_id == self._failing:
                raise RuntimeError("this handle was told to fail")
        finally:
            self.running -= 1
            async with self._changed:
                self._changed.notify_all()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds; it is looked at whenever a handle begins or ends."""
        async with asyncio.timeout(LIMIT), self._changed:
            await self._changed.wait_for(lambda: bool(condition()))


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
    """Subclass it in a test file with fixtures `queue` and `other` (two ends of one engine), and `submit`."""

    async def submit(self, queue: JobQueue, ring: Ring) -> None:
        """Make a job deliverable; an engine whose queue is the jobs table inserts a row here."""
        await queue.ring([ring])

    def accept(self, handle: Handled) -> Handle:
        """Return the handle to work with; an engine whose queue is the jobs table claims the row around it."""
        return handle

    async def _submit(self, queue: JobQueue, wanted: list[Ring]) -> list[str]:
        for ring in wanted:
            await self.submit(queue, ring)
        return [ring.job_id for ring in wanted]

    async def test_every_ring_reaches_a_handle(self, queue: JobQueue, other: JobQueue) -> None:
        wanted = await self._submit(other, rings(20))
        handled = Handled()

        async with working(queue, self.accept(handled)):
            await handled.until(lambda: set(handled.ids) >= set(wanted))

        assert sorted(handled.ids) == sorted(wanted)
        assert {ring.lane for ring in handled.rings} == {"chat"}

    async def test_a_ring_of_an_idle_queue_reaches_a_waiting_worker(self, queue: JobQueue, other: JobQueue) -> None:
        handled = Handled()

        async with working(queue, self.accept(handled)):
            for ring in rings(3):
                await self.submit(other, ring)
                await handled.until(lambda job_id=ring.job_id: job_id in handled.ids)  # type: ignore[misc]

    async def test_a_worker_takes_only_its_lane(self, queue: JobQueue) -> None:
        await self._submit(queue, rings(3, "background"))
        wanted = await self._submit(queue, rings(3))
        handled = Handled()

        async with working(queue, self.accept(handled)):
            await handled.until(lambda: len(handled.ids) >= 3)

        assert sorted(handled.ids) == sorted(wanted)
        assert await queue.depth("background") == 3

    async def test_at_most_concurrency_handles_run_at_once(self, queue: JobQueue) -> None:
        await self._submit(queue, rings(12))
        handled = Handled()
        handled.gate.clear()

        async with working(queue, self.accept(handled), concurrency=3):
            await handled.until(lambda: handled.running == 3)
            handled.gate.set()
            await handled.until(lambda: len(handled.ids) == 12)

        assert handled.most == 3

    async def test_two_workers_share_a_lane(self, queue: JobQueue, other: JobQueue) -> None:
        wanted = await self._submit(queue, rings(8))
        mine, theirs = Handled(), Handled()
        mine.gate.clear()
        theirs.gate.clear()

        async with working(queue, self.accept(mine), concurrency=4), working(other, self.accept(theirs), concurrency=4):
            await mine.until(lambda: mine.running == 4)
            await theirs.until(lambda: theirs.running == 4)
            mine.gate.set()
            theirs.gate.set()

        assert set(mine.ids) | set(theirs.ids) == set(wanted)

    async def test_a_handle_that_fails_stops_nobody(self, queue: JobQueue) -> None:
        first, second = await self._submit(queue, rings(2))
        handled = Handled(failing=first)

        async with working(queue, self.accept(handled), concurrency=1):
            await handled.until(lambda: second in handled.ids)

    async def test_depth_counts_what_waits(self, queue: JobQueue) -> None:
        assert await queue.depth("chat") == 0
        await self._submit(queue, rings(5))
        assert await queue.depth("chat") == 5
        handled = Handled()

        async with working(queue, self.accept(handled)):
            await handled.until(lambda: len(handled.ids) == 5)

        assert await queue.depth("chat") == 0

    async def test_a_ring_at_the_front_is_delivered_first(self, queue: JobQueue) -> None:
        await self._submit(queue, rings(3))
        [urgent] = await self._submit(queue, rings(1, front=True))
        handled = Handled()

        async with working(queue, self.accept(handled), concurrency=1):
            await handled.until(lambda: len(handled.ids) == 4)

        assert handled.ids[0] == urgent

    async def test_a_doubled_ring_harms_nobody(self, queue: JobQueue) -> None:
        [ring] = rings(1)
        await self._submit(queue, [ring])
        await queue.ring([ring, ring])
        [last] = await self._submit(queue, rings(1))
        handled = Handled()

        async with working(queue, self.accept(handled)):
            await handled.until(lambda: set(handled.ids) == {ring.job_id, last})

    async def test_cancelled_work_returns_and_leaves_running_handles_alone(self, queue: JobQueue) -> None:
        await self._submit(queue, rings(4))
        handled = Handled()
        handled.gate.clear()

        async with working(queue, self.accept(handled), concurrency=2):
            await handled.until(lambda: handled.running == 2)
        taken = len(handled.rings)
        assert handled.running == 2
        handled.gate.set()
        await handled.until(lambda: handled.running == 0)

        assert len(handled.rings) == taken
        assert await queue.depth("chat") == 2

    async def test_what_a_cancelled_worker_left_reaches_the_next_one(self, queue: JobQueue, other: JobQueue) -> None:
        first, second = Handled(), Handled()
        async with working(queue, self.accept(first)):
            await self._submit(queue, rings(1))
            await first.until(lambda: first.ids)

        wanted = await self._submit(queue, rings(3))
        async with working(other, self.accept(second)):
            await second.until(lambda: sorted(second.ids) == sorted(wanted))

"""What every queue engine and every event log must do: subclass a contract and give its fixtures.

Those are `queue` and `other`, two ends of one engine that is empty, or `log`.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from ragqueue.events.base import DAMAGED, EventLog
from ragqueue.queues.base import Handle, JobQueue
from ragqueue.types import Append, Event, Ring, seq_of

LIMIT = 10.0  # seconds for anything that must happen


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
async def working(
    queue: JobQueue, handle: Handle, lane: str = "chat", concurrency: int = 4
) -> AsyncIterator["asyncio.Task[None]"]:
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

    async def work(
        self, queue: JobQueue, wanted: list[str], concurrency: int = 4, *, failing: str = ""
    ) -> list[str]:
        """Work until these jobs were handled, and return the ids in order."""
        handled = Handled(failing)
        async with working(queue, self.claiming(handled), concurrency=concurrency):
            await until(lambda: {*handled.ids} >= {*wanted})
        return list(handled.ids)

    async def test_every_ring_of_the_lane_and_no_other_reaches_a_handle(
        self, queue: JobQueue, other: JobQueue
    ) -> None:
        await self.submit(other, rings(3, "background"))
        wanted = await self.submit(other, rings(20))
        assert sorted(await self.work(queue, wanted)) == sorted(wanted)
        assert await queue.depth("background") == 3

    async def test_at_most_concurrency_handles_run_at_once_and_depth_counts_what_waits(
        self, queue: JobQueue
    ) -> None:
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

    async def test_cancelled_work_returns_and_leaves_running_handles_alone(
        self, queue: JobQueue
    ) -> None:
        await self.submit(queue, rings(4))
        handled = Handled(closed=True)
        async with working(queue, self.claiming(handled), concurrency=2):
            await until(lambda: handled.running == 2)
        assert handled.running == 2
        handled.gate.set()
        await until(lambda: handled.running == 0)
        assert (len(handled.rings), await queue.depth("chat")) == (2, 2)

    async def test_an_idle_worker_is_woken_and_what_comes_after_its_end_reaches_the_next(
        self, queue: JobQueue, other: JobQueue
    ) -> None:
        handled = Handled()
        async with working(queue, self.claiming(handled)):
            for count in (1, 2):
                await self.submit(other, rings(1))
                await until(lambda count=count: len(handled.ids) == count)  # type: ignore[misc]
        await self.work(other, await self.submit(queue, rings(3)))


def event(n: int, *, attempt: int = 1, data: dict[str, Any] | None = None) -> Event:
    return Event(seq_of(attempt, n), "delta", {"n": n} if data is None else data, 1000.5 + n)


async def write(log: EventLog, job_id: str, after: int, *events: Event) -> int:
    return (await log.append([Append(job_id, after, events)]))[0]


async def everything(log: EventLog, job_id: str, after: int = 0) -> list[Event]:
    return (await log.read({job_id: after})).get(job_id, [])


Steps = list[tuple[int, list[Event], Event]]  # (after, events, where the log ends afterwards)
A, B, C = map(event, range(3))
SECOND, NINTH, TENTH, TWELFTH = (event(0, attempt=attempt) for attempt in (2, 9, 10, 12))
AGAIN = event(0, attempt=10, data={"first": False})
# what is told -> the appends, one after the other, and what the log then holds
APPENDS: dict[str, tuple[Steps, list[Event]]] = {
    "an append elsewhere writes nothing and tells the end": ([(-1, [A, B], B), (A.seq, [C], B), (event(5).seq, [event(6)], B)], [A, B]),
    "events come back as they were written, each append once": ([(0, [A], A), (A.seq, [B, C], C), (A.seq, [B, C], C)], [A, B, C]),
    "a fence is raised over any lower end": ([(-1, [A, B], B), (-1, [TWELFTH], TWELFTH)], [A, B, TWELFTH]),
    "a fence is not raised over an equal or higher end": ([(-1, [TENTH], TENTH), (-1, [AGAIN], TENTH), (-1, [NINTH], TENTH)], [TENTH]),
    "an older attempt writes nothing once the fence is up": ([(-1, [A, B], B), (-1, [SECOND], SECOND), (B.seq, [C], SECOND)], [A, B, SECOND]),
}  # fmt: skip


class EventLogContract:
    @pytest.fixture
    def job_id(self) -> str:
        return uuid.uuid4().hex

    @pytest.mark.parametrize(("appends", "held"), APPENDS.values(), ids=APPENDS)
    async def test_an_append_is_written_where_the_log_ends(
        self, log: EventLog, job_id: str, appends: Steps, held: list[Event]
    ) -> None:
        for after, events, end in appends:
            assert await write(log, job_id, after, *events) == end.seq
        assert await everything(log, job_id) == held

    async def test_appends_to_many_logs_are_decided_one_by_one(self, log: EventLog) -> None:
        first, longer, last = (uuid.uuid4().hex for _ in range(3))
        await write(log, longer, -1, A, B)
        ends = await log.append(
            [Append(first, 0, [A]), Append(longer, 0, [A]), Append(last, -1, [A])]
        )
        assert ends == [A.seq, B.seq, A.seq]
        assert await log.read(dict.fromkeys((first, longer, last), 0)) == {
            first: [A],
            longer: [A, B],
            last: [A],
        }

    async def test_a_long_log_is_read_whole_or_after_a_cursor(
        self, log: EventLog, job_id: str
    ) -> None:
        written = [event(n) for n in range(2500)]
        await write(log, job_id, -1, *written)
        assert await everything(log, job_id) == written
        assert await everything(log, job_id, written[-3].seq) == written[-2:]
        assert await log.read({job_id: written[-1].seq}) == {}

    async def test_a_log_that_was_dropped_is_empty_which_its_writer_learns(
        self, log: EventLog, job_id: str
    ) -> None:
        kept = uuid.uuid4().hex
        await log.append([Append(job_id, -1, [A, B]), Append(kept, -1, [A])])
        await log.drop([job_id, uuid.uuid4().hex])
        assert await log.read({job_id: 0, kept: 0}) == {kept: [A]}
        assert await write(log, job_id, B.seq, C) == 0
        assert await write(log, job_id, -1, A, B, C) == C.seq
        assert await everything(log, job_id) == [A, B, C]

    async def test_a_sealed_log_holds_a_fence_and_takes_nothing_of_older_attempts(
        self, log: EventLog, job_id: str
    ) -> None:
        kept = uuid.uuid4().hex
        await log.append([Append(job_id, -1, [A, B]), Append(kept, -1, [A])])
        await log.seal([Append(job_id, -1, [SECOND])])
        assert await log.read({job_id: 0, kept: 0}) == {job_id: [SECOND], kept: [A]}
        assert await write(log, job_id, B.seq, C) == SECOND.seq
        assert await write(log, job_id, -1, A, B, C) == SECOND.seq
        assert await everything(log, job_id) == [SECOND]
        assert set(await log.purge()) <= {"log_files", "log_files_left"}

    async def test_very_many_logs_are_dropped_at_once(self, log: EventLog, job_id: str) -> None:
        await write(log, job_id, -1, A)
        await log.drop([job_id, *(f"{n:032x}" for n in range(300_000))])
        assert await everything(log, job_id) == []

    async def damage(self, log: EventLog, job_id: str, seq: int) -> None:
        """Put an entry into a job's log that no pen wrote."""
        raise NotImplementedError

    async def test_a_damaged_entry_harms_no_other_log(self, log: EventLog, job_id: str) -> None:
        other = uuid.uuid4().hex
        await log.append([Append(job_id, -1, [A]), Append(other, -1, [A, B])])
        await self.damage(log, job_id, C.seq)
        assert await log.read({job_id: 0, other: 0}) == {
            job_id: [A, Event(C.seq, DAMAGED, {})],
            other: [A, B],
        }

    async def test_any_text_up_to_a_megabyte_is_kept_as_it_is(
        self, log: EventLog, job_id: str
    ) -> None:
        written = event(
            0,
            data={
                "text": "ü 漢字 🦆 \u0000 \\ \" '" + "x" * 1_000_000,
                "list": [1, 2.5, None, True, {"a": "b"}],
            },
        )
        await write(log, job_id, -1, written)
        assert await everything(log, job_id) == [written]

    async def test_a_waiting_read_gets_what_is_appended_even_after_one_that_was_cancelled(
        self, log: EventLog, job_id: str
    ) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(log.read({job_id: 0}, LIMIT * 2), 0.01)
        reading = asyncio.create_task(log.read({job_id: 0, uuid.uuid4().hex: 0}, LIMIT * 2))
        await asyncio.sleep(0)
        await write(log, job_id, -1, A)
        assert await asyncio.wait_for(reading, LIMIT) == {job_id: [A]}

    async def test_a_waiting_read_ends_when_its_time_is_over(
        self, log: EventLog, job_id: str
    ) -> None:
        began = time.monotonic()
        assert await asyncio.wait_for(log.read({job_id: 0}, 0.05), LIMIT) == {}
        assert time.monotonic() - began >= 0.04

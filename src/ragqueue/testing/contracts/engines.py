"""What every queue engine and every event log must do: subclass a contract and give its fixtures.

Those are `queue` and `other`, two ends of one engine that is empty, or `log`.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

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
        self.running = 0
        self.most = 0  # that ran at once
        self.gate = asyncio.Event()
        self._failing = failing
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
    return [
        Ring(job_id=new_id(), lane=lane, database="database", stamp=float(n), front=front)
        for n in range(count)
    ]


def new_id() -> str:
    return uuid.uuid4().hex


class QueueContract:
    async def submit(self, queue: JobQueue, wanted: list[Ring]) -> list[str]:
        """Make the jobs of the wanted rings deliverable and return their ids.

        An engine whose queue is the jobs table inserts rows.
        """
        await queue.ring(wanted)
        return [ring.job_id for ring in wanted]

    def claiming(self, handle: Handle) -> Handle:
        """Return the handle to work with.

        An engine whose queue is the jobs table claims the row first.
        """
        return handle

    async def work(
        self, queue: JobQueue, job_ids: list[str], concurrency: int = 4, *, failing: str = ""
    ) -> list[str]:
        """Work until these jobs were handled, and return the ids in order."""
        handled = Handled(failing)
        async with working(queue, self.claiming(handled), concurrency=concurrency):
            await until(lambda: handled.ids.keys() >= set(job_ids))
        return list(handled.ids)

    async def test_every_ring_of_the_lane_and_no_other_reaches_a_handle(
        self, queue: JobQueue, other: JobQueue
    ) -> None:
        await self.submit(other, rings(3, "background"))
        job_ids = await self.submit(other, rings(20))
        assert sorted(await self.work(queue, job_ids)) == sorted(job_ids)
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
        job_ids = await self.submit(queue, rings(8))
        mine = Handled(closed=True)
        theirs = Handled(closed=True)
        async with working(queue, self.claiming(mine)), working(other, self.claiming(theirs)):
            await until(lambda: mine.running == theirs.running == 4)
            mine.gate.set()
            theirs.gate.set()
        assert {*mine.ids, *theirs.ids} == set(job_ids)

    async def test_a_handle_that_fails_stops_nobody(self, queue: JobQueue) -> None:
        job_ids = await self.submit(queue, rings(2))
        await self.work(queue, job_ids, 1, failing=job_ids[0])

    async def test_a_ring_at_the_front_is_delivered_first(self, queue: JobQueue) -> None:
        usual = await self.submit(queue, rings(3))
        [urgent] = await self.submit(queue, rings(1, front=True))
        delivered = await self.work(queue, [*usual, urgent], 1)
        assert delivered[0] == urgent

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
        assert len(handled.rings) == 2
        assert await queue.depth("chat") == 2

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
    if data is None:
        data = {"n": n}
    return Event(seq=seq_of(attempt, n), type="delta", data=data, at=1000.5 + n)


async def write(log: EventLog, job_id: str, after: int, *events: Event) -> int:
    [end] = await log.append([Append(job_id=job_id, after=after, events=events)])
    return end


async def fill(log: EventLog, logs: dict[str, list[Event]]) -> None:
    """Write these events to logs that are empty, at once."""
    await log.append(
        [Append(job_id=job_id, after=-1, events=events) for job_id, events in logs.items()]
    )


async def everything(log: EventLog, job_id: str, after: int = 0) -> list[Event]:
    logs = await log.read({job_id: after})
    return logs.get(job_id, [])


FIRST = event(0)
SECOND = event(1)
THIRD = event(2)
FENCE_2 = event(0, attempt=2)
FENCE_9 = event(0, attempt=9)
FENCE_10 = event(0, attempt=10)
FENCE_10_AGAIN = event(0, attempt=10, data={"first": False})
FENCE_12 = event(0, attempt=12)


class Step(NamedTuple):
    """One append to a log, and where the log ends afterwards."""

    after: int
    events: list[Event]
    end: Event


# What is told -> the appends, one after the other, and what the log holds in the end.
APPENDS: dict[str, tuple[list[Step], list[Event]]] = {
    "an append elsewhere writes nothing and tells the end": (
        [
            Step(after=-1, events=[FIRST, SECOND], end=SECOND),
            Step(after=FIRST.seq, events=[THIRD], end=SECOND),
            Step(after=event(5).seq, events=[event(6)], end=SECOND),
        ],
        [FIRST, SECOND],
    ),
    "events come back as they were written, each append once": (
        [
            Step(after=0, events=[FIRST], end=FIRST),
            Step(after=FIRST.seq, events=[SECOND, THIRD], end=THIRD),
            Step(after=FIRST.seq, events=[SECOND, THIRD], end=THIRD),
        ],
        [FIRST, SECOND, THIRD],
    ),
    "a fence is raised over any lower end": (
        [
            Step(after=-1, events=[FIRST, SECOND], end=SECOND),
            Step(after=-1, events=[FENCE_12], end=FENCE_12),
        ],
        [FIRST, SECOND, FENCE_12],
    ),
    "a fence is not raised over an equal or higher end": (
        [
            Step(after=-1, events=[FENCE_10], end=FENCE_10),
            Step(after=-1, events=[FENCE_10_AGAIN], end=FENCE_10),
            Step(after=-1, events=[FENCE_9], end=FENCE_10),
        ],
        [FENCE_10],
    ),
    "an older attempt writes nothing once the fence is up": (
        [
            Step(after=-1, events=[FIRST, SECOND], end=SECOND),
            Step(after=-1, events=[FENCE_2], end=FENCE_2),
            Step(after=SECOND.seq, events=[THIRD], end=FENCE_2),
        ],
        [FIRST, SECOND, FENCE_2],
    ),
}


class EventLogContract:
    @pytest.fixture
    def job_id(self) -> str:
        return new_id()

    async def damage(self, log: EventLog, job_id: str, seq: int) -> None:
        """Put an entry into a job's log that no pen wrote."""
        raise NotImplementedError

    @pytest.mark.parametrize(("steps", "written"), APPENDS.values(), ids=APPENDS)
    async def test_an_append_is_written_where_the_log_ends(
        self, log: EventLog, job_id: str, steps: list[Step], written: list[Event]
    ) -> None:
        for step in steps:
            assert await write(log, job_id, step.after, *step.events) == step.end.seq
        assert await everything(log, job_id) == written

    async def test_appends_to_many_logs_are_decided_one_by_one(self, log: EventLog) -> None:
        empty = new_id()
        longer = new_id()
        also_empty = new_id()
        await write(log, longer, -1, FIRST, SECOND)
        ends = await log.append(
            [
                Append(job_id=empty, after=0, events=[FIRST]),
                Append(job_id=longer, after=0, events=[FIRST]),
                Append(job_id=also_empty, after=-1, events=[FIRST]),
            ]
        )
        assert ends == [FIRST.seq, SECOND.seq, FIRST.seq]
        assert await log.read({empty: 0, longer: 0, also_empty: 0}) == {
            empty: [FIRST],
            longer: [FIRST, SECOND],
            also_empty: [FIRST],
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
        kept_id = new_id()
        await fill(log, {job_id: [FIRST, SECOND], kept_id: [FIRST]})
        await log.drop([job_id, new_id()])
        assert await log.read({job_id: 0, kept_id: 0}) == {kept_id: [FIRST]}
        assert await write(log, job_id, SECOND.seq, THIRD) == 0
        assert await write(log, job_id, -1, FIRST, SECOND, THIRD) == THIRD.seq
        assert await everything(log, job_id) == [FIRST, SECOND, THIRD]

    async def test_a_sealed_log_holds_a_fence_and_takes_nothing_of_older_attempts(
        self, log: EventLog, job_id: str
    ) -> None:
        kept_id = new_id()
        await fill(log, {job_id: [FIRST, SECOND], kept_id: [FIRST]})
        await log.seal([Append(job_id=job_id, after=-1, events=[FENCE_2])])
        assert await log.read({job_id: 0, kept_id: 0}) == {job_id: [FENCE_2], kept_id: [FIRST]}
        assert await write(log, job_id, SECOND.seq, THIRD) == FENCE_2.seq
        assert await write(log, job_id, -1, FIRST, SECOND, THIRD) == FENCE_2.seq
        assert await everything(log, job_id) == [FENCE_2]
        assert set(await log.purge()) <= {"log_files", "log_files_left"}

    async def test_very_many_logs_are_dropped_at_once(self, log: EventLog, job_id: str) -> None:
        others = [f"{n:032x}" for n in range(300_000)]
        await write(log, job_id, -1, FIRST)
        await log.drop([job_id, *others])
        assert await everything(log, job_id) == []

    async def test_a_damaged_entry_harms_no_other_log(self, log: EventLog, job_id: str) -> None:
        other_id = new_id()
        await fill(log, {job_id: [FIRST], other_id: [FIRST, SECOND]})
        await self.damage(log, job_id, THIRD.seq)
        assert await log.read({job_id: 0, other_id: 0}) == {
            job_id: [FIRST, Event(seq=THIRD.seq, type=DAMAGED, data={})],
            other_id: [FIRST, SECOND],
        }

    async def test_any_text_up_to_a_megabyte_is_kept_as_it_is(
        self, log: EventLog, job_id: str
    ) -> None:
        data = {
            "text": "ü 漢字 🦆 \u0000 \\ \" '" + "x" * 1_000_000,
            "list": [1, 2.5, None, True, {"a": "b"}],
        }
        written = event(0, data=data)
        await write(log, job_id, -1, written)
        assert await everything(log, job_id) == [written]

    async def test_a_waiting_read_gets_what_is_appended_even_after_one_that_was_cancelled(
        self, log: EventLog, job_id: str
    ) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(log.read({job_id: 0}, LIMIT * 2), 0.01)
        reading = asyncio.create_task(log.read({job_id: 0, new_id(): 0}, LIMIT * 2))
        await asyncio.sleep(0)
        await write(log, job_id, -1, FIRST)
        assert await asyncio.wait_for(reading, LIMIT) == {job_id: [FIRST]}

    async def test_a_waiting_read_ends_when_its_time_is_over(
        self, log: EventLog, job_id: str
    ) -> None:
        began = time.monotonic()
        assert await asyncio.wait_for(log.read({job_id: 0}, 0.05), LIMIT) == {}
        assert time.monotonic() - began >= 0.04

"""What every event log must do."""

import asyncio
import time
import uuid
from collections.abc import Mapping
from typing import Any

import pytest

from ragqueue.events.base import EventLog
from ragqueue.types import Append, Event, seq_of

LIMIT = 10.0  # seconds for anything that must happen


def event(n: int, *, attempt: int = 1, data: Mapping[str, Any] | None = None) -> Event:
    """Return the n-th event of an attempt."""
    return Event(seq_of(attempt, n), "delta", {"n": n} if data is None else data, 1000.5 + n)


async def write(log: EventLog, job_id: str, after: int, *events: Event) -> int:
    """Append and return the end."""
    [end] = await log.append([Append(job_id, after, events)])
    return end


async def everything(log: EventLog, job_id: str, after: int = 0) -> list[Event]:
    """Return the events of a job."""
    return (await log.read({job_id: after})).get(job_id, [])


class EventLogContract:
    """Subclass it in a test file with a fixture `log`."""

    @pytest.fixture
    def job_id(self) -> str:
        return uuid.uuid4().hex

    async def test_events_come_back_as_they_were_written(self, log: EventLog, job_id: str) -> None:
        assert await write(log, job_id, 0, event(0)) == event(0).seq
        assert await write(log, job_id, event(0).seq, event(1), event(2)) == event(2).seq

        assert await everything(log, job_id) == [event(0), event(1), event(2)]

    async def test_an_append_elsewhere_writes_nothing_and_tells_the_end(self, log: EventLog, job_id: str) -> None:
        await write(log, job_id, -1, event(0), event(1))

        assert await write(log, job_id, event(0).seq, event(2)) == event(1).seq
        assert await write(log, job_id, event(5).seq, event(6)) == event(1).seq
        assert await everything(log, job_id) == [event(0), event(1)]

    async def test_the_same_append_twice_is_written_once(self, log: EventLog, job_id: str) -> None:
        await write(log, job_id, -1, event(0))

        ends = [await write(log, job_id, event(0).seq, event(1), event(2)) for _ in range(2)]

        assert ends == [event(2).seq, event(2).seq]
        assert await everything(log, job_id) == [event(0), event(1), event(2)]

    async def test_a_fence_is_raised_over_any_lower_end(self, log: EventLog, job_id: str) -> None:
        await write(log, job_id, -1, event(0), event(1))

        assert await write(log, job_id, -1, event(0, attempt=12)) == event(0, attempt=12).seq
        assert await everything(log, job_id) == [event(0), event(1), event(0, attempt=12)]

    async def test_a_fence_is_not_raised_over_an_equal_or_higher_end(self, log: EventLog, job_id: str) -> None:
        await write(log, job_id, -1, event(0, attempt=10, data={"first": True}))

        assert await write(log, job_id, -1, event(0, attempt=10, data={"first": False})) == event(0, attempt=10).seq
        assert await write(log, job_id, -1, event(0, attempt=9)) == event(0, attempt=10).seq
        assert await everything(log, job_id) == [event(0, attempt=10, data={"first": True})]

    async def test_an_older_attempt_writes_nothing_once_the_fence_is_up(self, log: EventLog, job_id: str) -> None:
        await write(log, job_id, -1, event(0), event(1))
        fence = event(0, attempt=2)
        await write(log, job_id, -1, fence)

        assert await write(log, job_id, event(1).seq, event(2)) == fence.seq
        assert await everything(log, job_id) == [event(0), event(1), fence]

    async def test_appends_to_many_logs_are_decided_one_by_one(self, log: EventLog) -> None:
        jobs = [uuid.uuid4().hex for _ in range(3)]
        await write(log, jobs[1], -1, event(0), event(1))

        ends = await log.append([Append(jobs[0], 0, [event(0)]), Append(jobs[1], 0, [event(0)]), Append(jobs[2], -1, [event(0)])])

        assert ends == [event(0).seq, event(1).seq, event(0).seq]
        found = await log.read(dict.fromkeys(jobs, 0))
        assert {job: len(events) for job, events in found.items()} == {jobs[0]: 1, jobs[1]: 2, jobs[2]: 1}

    async def test_a_read_begins_after_its_cursor(self, log: EventLog, job_id: str) -> None:
        await write(log, job_id, -1, *[event(n) for n in range(5)])

        assert await everything(log, job_id, event(2).seq) == [event(3), event(4)]
        assert await log.read({job_id: event(4).seq}) == {}

    async def test_a_log_that_was_dropped_is_empty(self, log: EventLog, job_id: str) -> None:
        kept = uuid.uuid4().hex
        await log.append([Append(job_id, -1, [event(0)]), Append(kept, -1, [event(0)])])

        await log.drop([job_id, uuid.uuid4().hex])

        assert await log.read({job_id: 0, kept: 0}) == {kept: [event(0)]}

    async def test_a_writer_learns_that_the_log_lost_its_tail(self, log: EventLog, job_id: str) -> None:
        await write(log, job_id, -1, event(0), event(1))
        await log.drop([job_id])

        assert await write(log, job_id, event(1).seq, event(2)) == 0
        assert await write(log, job_id, -1, event(0), event(1), event(2)) == event(2).seq
        assert await everything(log, job_id) == [event(0), event(1), event(2)]

    async def test_a_long_log_is_read_whole(self, log: EventLog, job_id: str) -> None:
        written = [event(n) for n in range(2500)]
        await write(log, job_id, -1, *written)

        assert await everything(log, job_id) == written

    @pytest.mark.parametrize("text", ["ü 漢字 🦆 \u0000 \\ \" '", "x" * 1_000_000], ids=["any character", "a megabyte"])
    async def test_text_is_kept_as_it_is(self, log: EventLog, job_id: str, text: str) -> None:
        await write(log, job_id, -1, event(0, data={"text": text, "list": [1, 2.5, None, True, {"a": "b"}]}))

        [found] = await everything(log, job_id)
        assert found.data == {"text": text, "list": [1, 2.5, None, True, {"a": "b"}]}

    async def test_a_waiting_read_gets_what_is_appended(self, log: EventLog, job_id: str) -> None:
        reading = asyncio.create_task(log.read({job_id: 0, uuid.uuid4().hex: 0}, LIMIT * 2))
        await asyncio.sleep(0)
        await write(log, job_id, -1, event(0))

        async with asyncio.timeout(LIMIT):
            assert await reading == {job_id: [event(0)]}

    async def test_a_waiting_read_ends_when_its_time_is_over(self, log: EventLog, job_id: str) -> None:
        began = time.monotonic()

        async with asyncio.timeout(LIMIT):
            assert await log.read({job_id: 0}, 0.05) == {}
        assert time.monotonic() - began >= 0.04

    async def test_wake_ends_a_waiting_read(self, log: EventLog, job_id: str) -> None:
        for _ in range(3):
            reading = asyncio.create_task(log.read({job_id: 0}, LIMIT * 2))
            await asyncio.sleep(0)
            async with asyncio.timeout(LIMIT):
                while not reading.done():  # an engine may take a moment to look
                    await log.wake()
                    await asyncio.sleep(0.001)
            assert reading.result() == {}

    async def test_a_read_that_was_cancelled_spoils_nothing(self, log: EventLog, job_id: str) -> None:
        reading = asyncio.create_task(log.read({job_id: 0}, LIMIT * 2))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await write(log, job_id, -1, event(0))

        async with asyncio.timeout(LIMIT):
            assert await log.read({job_id: 0}, LIMIT * 2) == {job_id: [event(0)]}

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


Steps = list[tuple[int, list[Event], Event]]  # (after, events, where the log ends afterwards)
A, B, C = map(event, range(3))
SECOND, NINTH, TENTH, TWELFTH = (event(0, attempt=attempt) for attempt in (2, 9, 10, 12))
TENTH_AGAIN = event(0, attempt=10, data={"first": False})
# what is told -> the appends, one after the other, and what the log then holds
APPENDS: dict[str, tuple[Steps, list[Event]]] = {
    "events come back as they were written": ([(0, [A], A), (A.seq, [B, C], C)], [A, B, C]),
    "an append elsewhere writes nothing and tells the end": ([(-1, [A, B], B), (A.seq, [C], B), (event(5).seq, [event(6)], B)], [A, B]),
    "the same append twice is written once": ([(-1, [A], A), (A.seq, [B, C], C), (A.seq, [B, C], C)], [A, B, C]),
    "a fence is raised over any lower end": ([(-1, [A, B], B), (-1, [TWELFTH], TWELFTH)], [A, B, TWELFTH]),
    "a fence is not raised over an equal or higher end": (
        [(-1, [TENTH], TENTH), (-1, [TENTH_AGAIN], TENTH), (-1, [NINTH], TENTH)], [TENTH]
    ),
    "an older attempt writes nothing once the fence is up": ([(-1, [A, B], B), (-1, [SECOND], SECOND), (B.seq, [C], SECOND)], [A, B, SECOND]),
}  # fmt: skip


class EventLogContract:
    """Subclass it in a test file with a fixture `log`."""

    @pytest.fixture
    def job_id(self) -> str:
        return uuid.uuid4().hex

    @pytest.mark.parametrize(("appends", "held"), APPENDS.values(), ids=APPENDS)
    async def test_an_append_is_written_where_the_log_ends(self, log: EventLog, job_id: str, appends: Steps, held: list[Event]) -> None:
        for after, events, end in appends:
            assert await write(log, job_id, after, *events) == end.seq
        assert await everything(log, job_id) == held

    async def test_appends_to_many_logs_are_decided_one_by_one(self, log: EventLog) -> None:
        first, longer, last = (uuid.uuid4().hex for _ in range(3))
        await write(log, longer, -1, A, B)

        ends = await log.append([Append(first, 0, [A]), Append(longer, 0, [A]), Append(last, -1, [A])])

        assert ends == [A.seq, B.seq, A.seq]
        assert await log.read(dict.fromkeys((first, longer, last), 0)) == {first: [A], longer: [A, B], last: [A]}

    async def test_a_read_begins_after_its_cursor(self, log: EventLog, job_id: str) -> None:
        await write(log, job_id, -1, *[event(n) for n in range(5)])

        assert await everything(log, job_id, C.seq) == [event(3), event(4)]
        assert await log.read({job_id: event(4).seq}) == {}

    async def test_a_log_that_was_dropped_is_empty(self, log: EventLog, job_id: str) -> None:
        kept = uuid.uuid4().hex
        await log.append([Append(job_id, -1, [A]), Append(kept, -1, [A])])

        await log.drop([job_id, uuid.uuid4().hex])

        assert await log.read({job_id: 0, kept: 0}) == {kept: [A]}

    async def test_a_writer_learns_that_the_log_lost_its_tail(self, log: EventLog, job_id: str) -> None:
        await write(log, job_id, -1, A, B)
        await log.drop([job_id])

        assert await write(log, job_id, B.seq, C) == 0
        assert await write(log, job_id, -1, A, B, C) == C.seq
        assert await everything(log, job_id) == [A, B, C]

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
        await write(log, job_id, -1, A)

        async with asyncio.timeout(LIMIT):
            assert await reading == {job_id: [A]}

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
        await write(log, job_id, -1, A)

        async with asyncio.timeout(LIMIT):
            assert await log.read({job_id: 0}, LIMIT * 2) == {job_id: [A]}

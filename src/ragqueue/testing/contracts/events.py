"""What every event log must do: subclass the contract and give the fixture `log`."""

import asyncio
import time
import uuid
from typing import Any

import pytest

from ragqueue.events.base import EventLog
from ragqueue.types import Append, Event, seq_of

LIMIT = 10.0  # seconds for anything that must happen


def event(n: int, *, attempt: int = 1, data: dict[str, Any] | None = None) -> Event:
    return Event(seq_of(attempt, n), "delta", {"n": n} if data is None else data, 1000.5 + n)


async def write(log: EventLog, job_id: str, after: int, *events: Event) -> int:
    [end] = await log.append([Append(job_id, after, events)])
    return end


async def everything(log: EventLog, job_id: str, after: int = 0) -> list[Event]:
    return (await log.read({job_id: after})).get(job_id, [])


Steps = list[tuple[int, list[Event], Event]]  # (after, events, where the log ends afterwards)
A, B, C = map(event, range(3))
SECOND, NINTH, TENTH, TWELFTH = (event(0, attempt=attempt) for attempt in (2, 9, 10, 12))
AGAIN = event(0, attempt=10, data={"first": False})
# what is told -> the appends, one after the other, and what the log then holds
APPENDS: dict[str, tuple[Steps, list[Event]]] = {
    "events come back as they were written": ([(0, [A], A), (A.seq, [B, C], C)], [A, B, C]),
    "an append elsewhere writes nothing and tells the end": ([(-1, [A, B], B), (A.seq, [C], B), (event(5).seq, [event(6)], B)], [A, B]),
    "the same append twice is written once": ([(-1, [A], A), (A.seq, [B, C], C), (A.seq, [B, C], C)], [A, B, C]),
    "a fence is raised over any lower end": ([(-1, [A, B], B), (-1, [TWELFTH], TWELFTH)], [A, B, TWELFTH]),
    "a fence is not raised over an equal or higher end": ([(-1, [TENTH], TENTH), (-1, [AGAIN], TENTH), (-1, [NINTH], TENTH)], [TENTH]),
    "an older attempt writes nothing once the fence is up": ([(-1, [A, B], B), (-1, [SECOND], SECOND), (B.seq, [C], SECOND)], [A, B, SECOND]),
}  # fmt: skip


class EventLogContract:
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

    async def test_a_long_log_is_read_whole_or_after_a_cursor(self, log: EventLog, job_id: str) -> None:
        written = [event(n) for n in range(2500)]
        await write(log, job_id, -1, *written)
        assert await everything(log, job_id) == written
        assert await everything(log, job_id, written[-3].seq) == written[-2:]
        assert await log.read({job_id: written[-1].seq}) == {}

    async def test_a_log_that_was_dropped_is_empty_which_its_writer_learns(self, log: EventLog, job_id: str) -> None:
        kept = uuid.uuid4().hex
        await log.append([Append(job_id, -1, [A, B]), Append(kept, -1, [A])])
        await log.drop([job_id, uuid.uuid4().hex])
        assert await log.read({job_id: 0, kept: 0}) == {kept: [A]}
        assert await write(log, job_id, B.seq, C) == 0
        assert await write(log, job_id, -1, A, B, C) == C.seq
        assert await everything(log, job_id) == [A, B, C]

    async def test_any_text_up_to_a_megabyte_is_kept_as_it_is(self, log: EventLog, job_id: str) -> None:
        written = event(0, data={"text": "ü 漢字 🦆 \u0000 \\ \" '" + "x" * 1_000_000, "list": [1, 2.5, None, True, {"a": "b"}]})
        await write(log, job_id, -1, written)
        assert await everything(log, job_id) == [written]

    async def test_a_waiting_read_gets_what_is_appended(self, log: EventLog, job_id: str) -> None:
        reading = asyncio.create_task(log.read({job_id: 0, uuid.uuid4().hex: 0}, LIMIT * 2))
        await asyncio.sleep(0)
        await write(log, job_id, -1, A)
        assert await asyncio.wait_for(reading, LIMIT) == {job_id: [A]}

    async def test_a_waiting_read_ends_when_its_time_is_over(self, log: EventLog, job_id: str) -> None:
        began = time.monotonic()
        assert await asyncio.wait_for(log.read({job_id: 0}, 0.05), LIMIT) == {}
        assert time.monotonic() - began >= 0.04

    async def test_wake_ends_a_waiting_read(self, log: EventLog, job_id: str) -> None:
        reading = asyncio.create_task(log.read({job_id: 0}, LIMIT * 2))
        async with asyncio.timeout(LIMIT):
            while not reading.done():  # an engine may take a moment to look
                await log.wake()
                await asyncio.sleep(0.001)
        assert reading.result() == {}

    async def test_a_read_that_was_cancelled_spoils_nothing(self, log: EventLog, job_id: str) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(log.read({job_id: 0}, LIMIT * 2), 0.01)
        await write(log, job_id, -1, A)
        assert await asyncio.wait_for(log.read({job_id: 0}, LIMIT * 2), LIMIT) == {job_id: [A]}

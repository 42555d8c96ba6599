"""The event log in the records: for one host, or few."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from sqlalchemy import Connection

from ragqueue.adapters import Given
from ragqueue.events.base import EventLog, entry
from ragqueue.records.database import database_of
from ragqueue.records.statements import as_list, positional, to_json
from ragqueue.records.store import Records
from ragqueue.types import Append, Event

POLL = 0.01  # seconds between looks for what other processes wrote, while somebody reads

AT_ONCE = 500  # logs in one transaction that ends them: each is held by a lock of the server's

# These run for every token: past SQLAlchemy's texts, which cost more than the statements.
_HOLD = "select hold(?)"
_ENDS = """
    select job.value, coalesce((select max(seq) from events where job_id = job.value), 0)
    from json_each(?) job"""
_DROP = "delete from events where job_id in (select value from json_each(?))"
_INSERT = "insert into events (job_id, seq, type, data, at) values (?, ?, ?, ?, ?)"
# CROSS JOIN keeps SQLite from scanning the events first: one look-up a live job.
_AFTER = """
    select job_id, seq, e.type, data, at from json_each(?)
    cross join events e where job_id = key and seq > cast(value as bigint)
    order by job_id, seq"""


class SqlEventLog(EventLog):
    """Keeps events in a table.

    Readers of its own process are woken at once, others see what is new within `POLL`.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._woken = asyncio.Event()

    async def append(self, appends: Sequence[Append]) -> list[int]:
        ends = await self._records.loosely(write, appends)
        self._woken.set()
        return ends

    async def read(self, cursors: Mapping[str, int], wait: float = 0) -> dict[str, list[Event]]:
        end = time.monotonic() + wait
        after = to_json(cursors)
        while True:
            self._woken.clear()
            events = await self._records.read(_read, after)
            if events or time.monotonic() >= end:
                return events
            with suppress(TimeoutError):
                async with asyncio.timeout(min(POLL, wait)):
                    await self._woken.wait()

    async def drop(self, job_ids: Sequence[str]) -> None:
        for start in range(0, len(job_ids), AT_ONCE):
            await self._records.note(_drop, job_ids[start : start + AT_ONCE])

    async def seal(self, fences: Sequence[Append]) -> None:
        for start in range(0, len(fences), AT_ONCE):
            await self._records.write(_seal, fences[start : start + AT_ONCE])


def grants(end: int, after: int, first: int) -> bool:
    """Say whether a log that ends at `end` accepts an append: the fence of the log."""
    return end == after or (after == -1 and end < first)


def _hold(connection: Connection, job_ids: str) -> None:
    """Let nobody else write to these logs (a JSON list) until the transaction ends.

    Two that look for the end of one log at the same moment would both be granted, and what is
    dropped would come back. In a file the writers take turns.
    """
    if not database_of(connection.dialect.name).is_file:
        connection.exec_driver_sql(positional(connection, _HOLD), (job_ids,))


def write(connection: Connection, appends: Sequence[Append]) -> list[int]:
    """Write the appends that are granted; return where each log ends then."""
    job_ids = as_list(append.job_id for append in appends)
    _hold(connection, job_ids)
    ends: dict[str, int] = dict(
        connection.exec_driver_sql(positional(connection, _ENDS), (job_ids,)).all()
    )
    rows = []
    for append in appends:
        if not append.events:
            continue
        if grants(ends[append.job_id], append.after, append.events[0].seq):
            rows += [
                (append.job_id, event.seq, event.type, to_json(event.data), event.at)
                for event in append.events
            ]
            ends[append.job_id] = append.events[-1].seq
    if rows:
        connection.exec_driver_sql(positional(connection, _INSERT), rows)
    return [ends[append.job_id] for append in appends]


def _drop(connection: Connection, job_ids: Sequence[str]) -> None:
    listed = as_list(job_ids)
    _hold(connection, listed)
    connection.exec_driver_sql(positional(connection, _DROP), (listed,))


def _seal(connection: Connection, fences: Sequence[Append]) -> None:
    _drop(connection, [fence.job_id for fence in fences])
    write(connection, fences)


def _read(connection: Connection, cursors: str) -> dict[str, list[Event]]:
    events: dict[str, list[Event]] = {}
    for job_id, seq, type_, data, at in connection.exec_driver_sql(
        positional(connection, _AFTER), (cursors,)
    ):
        events.setdefault(job_id, []).append(entry(seq, type_, data, at))
    return events


def open(given: Given) -> SqlEventLog:
    """Return the log in the records."""
    assert given.records is not None
    return SqlEventLog(given.records)

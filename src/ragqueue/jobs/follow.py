"""A job as its reader sees it: one ordered stream that resumes, from the row and from the log."""

from collections.abc import AsyncIterator
from typing import Any

from ragqueue.events.base import EventLog
from ragqueue.events.hub import Hub, Reader
from ragqueue.events.pen import FENCE, INTERNAL
from ragqueue.jobs.views import DELTA, RESTARTED, opening, retold, terminal
from ragqueue.records import jobs
from ragqueue.records.store import Records
from ragqueue.types import ATTEMPT_SHIFT, QUEUED_SEQ, Event, Job

KEEP_ALIVE = 15.0  # seconds without an event after which a batch is empty

# What a reader is told when the log was lost; a reader that breaks off here resumes at the start.
_LOST = Event(QUEUED_SEQ, RESTARTED, {"reason": "log_lost"})


class Follower:
    """Follows jobs of one process."""

    def __init__(self, records: Records, log: EventLog, hub: Hub) -> None:
        self._records, self._log, self._hub = records, log, hub

    async def follow(self, job: Job, after: int | None = None) -> AsyncIterator[list[Event]]:
        """Yield batches of the job's events after `after` (None: all), up to its terminal event; empty batches when nothing happens.

        An `after` that is not in the log means that the log was lost: `ragqueue:restarted`, then everything from the start.
        """
        lead = [event for event in opening(job) if after is None or event.seq > after]
        cursor = max(after or 0, QUEUED_SEQ)
        if not await self._holds(job.id, cursor):
            lead, cursor = [_LOST], QUEUED_SEQ
        if lead:
            yield lead
        if job.ended:
            events = (await self._log.read({job.id: cursor})).get(job.id, [])
            if batch := coalesced(events):
                yield batch
            yield await self._end(job, events[-1].seq if events else cursor)
            return
        reader = await self._hub.join(job.id, cursor)
        try:
            async for batch in self._live(job, reader, cursor):
                yield batch
        finally:
            self._hub.leave(reader)

    async def _live(self, job: Job, reader: Reader, shown: int) -> AsyncIterator[list[Event]]:
        """Yield what comes after `shown`, the last event that the reader was given; the hub may have delivered some already."""
        while True:
            # What arrived while a lost log was told again may be in it already.
            events = [event for event in await reader.take(KEEP_ALIVE) if event.seq > shown]
            ended = reader.ended
            if ended:
                events += (await self._log.read({job.id: events[-1].seq if events else shown})).get(job.id, [])
            if events and await self._lost_before(job.id, shown, events):
                shown, reader.inbox = QUEUED_SEQ, []
                events = (await self._log.read({job.id: shown})).get(job.id, [])
                yield [_LOST]
            if events:
                shown = events[-1].seq
                reader.cursor = max(reader.cursor, shown)
            if batch := coalesced(events):
                yield batch
            elif not ended:
                yield []
            if ended:
                yield await self._end(job, shown)
                return

    async def _holds(self, job_id: str, cursor: int) -> bool:
        """Say whether an event that a reader was shown is (still) in the log."""
        if cursor <= QUEUED_SEQ:
            return True
        found = (await self._log.read({job_id: cursor - 1})).get(job_id, [])
        return bool(found) and found[0].seq == cursor

    async def _lost_before(self, job_id: str, shown: int, events: list[Event]) -> bool:
        """Say whether a new attempt began without knowing what this reader was shown."""
        new_attempt = any(event.type == FENCE and event.seq >> ATTEMPT_SHIFT > shown >> ATTEMPT_SHIFT for event in events)
        return new_attempt and not await self._holds(job_id, shown)

    async def _end(self, job: Job, shown: int) -> list[Event]:
        row = await self._records.read(jobs.get, job.tenant, job.id)
        if row is None:
            return []
        answer = await self._records.read(jobs.answer, job.tenant, job.id)
        retelling: list[Event] = []
        if answer is not None and shown < answer["log_end"]:  # the log was lost, or is past its retention
            retelling = retold(row, answer)
            if shown > QUEUED_SEQ:
                retelling.insert(0, _LOST)
        return [*retelling, terminal(row, answer)]


def coalesced(events: list[Event]) -> list[Event]:
    """Return the events that a reader is shown, neighbouring deltas of one item merged into the last of them."""
    shown: list[Event] = []
    for event in events:
        if event.type in INTERNAL:
            continue
        if event.type == DELTA and shown and shown[-1].type == DELTA and _item(shown[-1]) == _item(event):
            merged = dict(event.data) | {"delta": shown[-1].data["delta"] + event.data["delta"]}
            shown[-1] = Event(event.seq, DELTA, merged, event.at)
        else:
            shown.append(event)
    return shown


def _item(event: Event) -> Any:
    return event.data.get("output_index")

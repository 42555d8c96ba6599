"""A job as its reader sees it: one ordered stream that resumes, from the row and from the log."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from ragqueue.events.base import EventLog
from ragqueue.events.pen import END, FENCE, patiently
from ragqueue.jobs.views import DELTA, RESTARTED, opening, retold, terminal
from ragqueue.records import jobs
from ragqueue.records.store import Records
from ragqueue.types import ENDED, QUEUED_SEQ, Event, Job

KEEP_ALIVE = 15.0  # seconds without an event after which a batch is empty
PAUSE = 0.005  # seconds between two reads of the hub: under load one that finds more tokens costs less than more reads
LONGEST_READ = 0.05  # seconds that the hub waits for an event: a stream that begins is read from the next read on
ROWS_EVERY = 1.0  # seconds between looks at the rows of live jobs: the row decides that a job has ended
_LOST = Event(QUEUED_SEQ, RESTARTED, {"reason": "log_lost"})  # a reader that breaks off here resumes at the start


class Reader:
    """One live stream: what is read for it waits in its inbox, in order."""

    def __init__(self, job: Job, cursor: int) -> None:
        self.job_id, self.cursor, self.ended = job.id, cursor, job.ended
        self.inbox: list[Event] = []
        self.woken = asyncio.Event()  # there is something in the inbox, or the job has ended

    async def take(self) -> list[Event]:
        """Return what arrived; waits for the first event or the end, but not for ever."""
        if not self.inbox and not self.ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(KEEP_ALIVE):
                    await self.woken.wait()
        self.woken.clear()
        taken, self.inbox = self.inbox, []
        return taken


class Follower:
    """Follows jobs for the readers of one process: its hub reads the logs of all live streams with one call at a time."""

    def __init__(self, records: Records, log: EventLog) -> None:
        self._records, self._log = records, log
        self._readers: set[Reader] = set()
        self._hub: asyncio.Task[None] | None = None

    async def follow(self, job: Job, after: int | None = None) -> AsyncIterator[list[Event]]:
        """Yield batches of events after `after` (None: all), empty when nothing happens, to the terminal one; all again after a lost log."""
        lead = [event for event in opening(job) if after is None or event.seq > after]
        shown = max(after or 0, QUEUED_SEQ)
        if not await self._holds(job.id, shown):
            lead, shown = [_LOST], QUEUED_SEQ
        if lead:
            yield lead
        reader, ended = Reader(job, shown), False
        try:
            if not reader.ended:
                self._join(reader)
            while not ended:
                # What arrived while a lost log was told again may be in it already.
                new = [event for event in await reader.take() if event.seq > shown]
                if ended := reader.ended:
                    new += await self._after(job.id, new[-1].seq if new else shown)
                if any(event.type == FENCE for event in new) and not await self._holds(job.id, shown):
                    yield [_LOST]  # a new attempt began without knowing what this reader was shown
                    shown, new = QUEUED_SEQ, await self._after(job.id, QUEUED_SEQ)
                shown = new[-1].seq if new else shown
                if (batch := coalesced(new)) or not ended:
                    yield batch
        finally:
            self._readers.discard(reader)
        if row := await self._records.read(jobs.get, job.tenant, job.id):
            answer = await self._records.read(jobs.answer, job.tenant, job.id)
            if answer and shown < answer["log_end"]:  # the log was lost, or is past its retention
                yield ([_LOST] if shown > QUEUED_SEQ else []) + retold(row, answer)
            yield [terminal(row, answer)]

    async def close(self) -> None:
        """Read no more."""
        if self._hub is not None:
            self._hub.cancel()
            await asyncio.gather(self._hub, return_exceptions=True)

    async def _after(self, job_id: str, seq: int) -> list[Event]:
        return (await self._log.read({job_id: seq})).get(job_id, [])

    async def _holds(self, job_id: str, seq: int) -> bool:
        """Say whether an event that a reader was shown is (still) in the log."""
        return seq <= QUEUED_SEQ or any(event.seq == seq for event in await self._after(job_id, seq - 1))

    def _join(self, reader: Reader) -> None:
        self._readers.add(reader)
        if self._hub is None or self._hub.done():
            self._hub = asyncio.create_task(self._run_hub(), name="hub")

    async def _run_hub(self) -> None:
        rows_at = 0.0
        while readers := list(self._readers):  # who joins during the read gets nothing from it: its cursor may be older
            cursors: dict[str, int] = {}
            for reader in readers:
                cursors[reader.job_id] = min(reader.cursor, cursors.get(reader.job_id, reader.cursor))
            found = await patiently(self._log.read, cursors, LONGEST_READ)
            for reader in readers:
                if new := [event for event in found.get(reader.job_id, ()) if event.seq > reader.cursor]:
                    reader.inbox += new
                    reader.cursor = new[-1].seq
                    reader.woken.set()
            if time.monotonic() - rows_at >= ROWS_EVERY or any(events[-1].type == END for events in found.values()):
                rows_at = time.monotonic()
                states = await patiently(self._records.read, jobs.states, list(cursors))
                for reader in readers:
                    if states.get(reader.job_id, "failed") in ENDED:  # a row that was erased ends its readers, too
                        reader.ended = True
                        reader.woken.set()
            await asyncio.sleep(PAUSE)


def coalesced(events: list[Event]) -> list[Event]:
    """Return the events that a reader is shown, neighbouring deltas of one item merged into the last of them."""
    shown: list[Event] = []
    for event in events:
        last = shown[-1] if shown and event.type == DELTA else None
        if last and last.type == DELTA and last.data.get("output_index") == event.data.get("output_index"):
            shown[-1] = Event(event.seq, DELTA, {**event.data, "delta": last.data["delta"] + event.data["delta"]}, event.at)
        elif event.type not in (FENCE, END):
            shown.append(event)
    return shown

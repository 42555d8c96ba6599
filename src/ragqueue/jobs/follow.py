"""A job as its reader sees it: one ordered stream that resumes, from the log and from the row."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from ragqueue.events.base import DAMAGED, END, FENCE, EventLog
from ragqueue.jobs.stream import RESTARTED, coalesced, opening, retold, terminal
from ragqueue.patience import patiently
from ragqueue.records import jobs
from ragqueue.records.store import Records
from ragqueue.types import ENDED, QUEUED_SEQ, Event, Job

KEEP_ALIVE = 15.0  # seconds without an event after which a batch is empty
# Seconds between two reads of the hub: under load one that finds more tokens costs less than more
# reads.
PAUSE = 0.008
# Seconds that the hub waits for an event: a stream that begins is read from the next read on.
LONGEST_READ = 0.05
# Seconds between looks at the rows of live jobs: the row says that a job has ended.
ROWS_EVERY = 1.0
# What was shown is void; a reader that breaks off here resumes at the start.
_LOST = Event(seq=QUEUED_SEQ, type=RESTARTED, data={"reason": "log_lost"})
logger = logging.getLogger(__name__)


class Reader:
    """One stream: what is read for it waits in its inbox, in order."""

    def __init__(self, job: Job, last_shown: int, welcome: Callable[[], bool]) -> None:
        self.job_id = job.id
        self.ended = job.ended
        self.welcome = welcome
        self.last_shown = last_shown  # seq
        self.last_read = last_shown  # seq of the last event that came into the inbox
        self.blind = False  # its log is damaged: the answer is told from the records
        self.inbox: list[Event] = []
        self.woken = asyncio.Event()  # there is news: events, the end of the job, or of the welcome

    async def take(self) -> list[Event]:
        """Return what arrived; waits for the first event or the end, but not for ever."""
        if not self.inbox and not self.ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(KEEP_ALIVE):
                    await self.woken.wait()
        self.woken.clear()
        arrived = self.inbox
        self.inbox = []
        # What arrived while a lost log was told again may have been shown already.
        return [event for event in arrived if event.seq > self.last_shown]

    def put(self, events: Sequence[Event]) -> None:
        """Bring the events that it has not had yet into the inbox."""
        news = [event for event in events if event.seq > self.last_read]
        if news:
            self.inbox += news
            self.last_read = news[-1].seq
            self.woken.set()

    def show(self, events: list[Event]) -> list[Event]:
        """Note that events are shown, and return them as their reader sees them."""
        if events:
            self.last_shown = events[-1].seq
        return coalesced(events)


class Follower:
    """Follows jobs for the readers of one process.

    Its hub reads the logs of all live streams with one call at a time.
    """

    def __init__(self, records: Records, log: EventLog) -> None:
        self._records = records
        self._log = log
        self._readers: set[Reader] = set()
        self._joined = asyncio.Event()
        self._rows_at = 0.0  # when the rows were looked at last

    async def open(
        self, job: Job, after: int | None = None, *, welcome: Callable[[], bool] = lambda: True
    ) -> AsyncIterator[list[Event]]:
        """Return batches of events after `after` (None: all) to the terminal one.

        A batch is empty when nothing happens. All comes again after a lost log. The batches end
        early once the reader is no longer welcome. Raises Unavailable when the log cannot be read
        now; one that goes away later is waited for.
        """
        last_shown = max(after or 0, QUEUED_SEQ)
        first = [event for event in opening(job) if after is None or event.seq > after]
        if not await self._holds(job.id, last_shown):
            first = [_LOST]
            last_shown = QUEUED_SEQ
        return self._follow(job, first, Reader(job, last_shown, welcome))

    async def follow(self, job: Job, after: int | None = None) -> AsyncIterator[list[Event]]:
        """Yield what `open` returns."""
        async for batch in await self.open(job, after):
            yield batch

    async def _follow(
        self, job: Job, first: list[Event], reader: Reader
    ) -> AsyncIterator[list[Event]]:
        if first:
            yield first
        async for batch in self._from_the_log(reader):
            yield batch
        if reader.welcome():
            async for batch in self._from_the_row(job, reader.last_shown):
                yield batch

    async def _from_the_log(self, reader: Reader) -> AsyncIterator[list[Event]]:
        """Yield batches until the job has ended, or the reader is not welcome any more."""
        try:
            if not reader.ended:
                self._join(reader)
            ended = False
            while not ended and reader.welcome():
                events = await reader.take()
                ended = reader.ended
                if ended:
                    last = events[-1].seq if events else reader.last_shown
                    events += await self._after(reader.job_id, last)
                if _any_is(FENCE, events) and await self._is_another_log(reader):
                    if not reader.blind:
                        yield [_LOST]
                    reader.last_shown = QUEUED_SEQ
                    reader.blind = False
                    events = await self._after(reader.job_id, QUEUED_SEQ)
                if _any_is(DAMAGED, events) and not reader.blind:
                    logger.error("log.damaged job=%s: its readers wait for the row", reader.job_id)
                    yield [_LOST]
                    reader.last_shown = QUEUED_SEQ
                    reader.blind = True
                batch = [] if reader.blind else reader.show(events)
                if batch or not ended:
                    yield batch
        finally:
            self._readers.discard(reader)

    async def _from_the_row(self, job: Job, last_shown: int) -> AsyncIterator[list[Event]]:
        """Yield what the log did not tell of an ended job, then the terminal event."""
        row = await patiently(self._records.read, jobs.get, job.tenant, job.id)
        if row is None:  # it was erased
            return
        answer = await patiently(self._records.read, jobs.answer, job.tenant, job.id)
        if answer and last_shown < answer["log_end"]:  # lost, damaged, or past its retention
            if last_shown > QUEUED_SEQ:
                yield [_LOST, *retold(row, answer)]
            else:
                yield retold(row, answer)
        yield [terminal(row, answer)]

    async def _is_another_log(self, reader: Reader) -> bool:
        """Say whether a new attempt does not know what this reader was shown, or all was erased."""
        if reader.blind:
            return True
        return not await patiently(self._holds, reader.job_id, reader.last_shown)

    async def _after(self, job_id: str, seq: int) -> list[Event]:
        logs = await patiently(self._log.read, {job_id: seq})
        return logs.get(job_id, [])

    async def _holds(self, job_id: str, seq: int) -> bool:
        """Say whether an event that a reader was shown is (still) in the log.

        Raises Unavailable.
        """
        if seq <= QUEUED_SEQ:
            return True
        logs = await self._log.read({job_id: seq - 1})
        return any(event.seq == seq for event in logs.get(job_id, []))

    def _join(self, reader: Reader) -> None:
        self._readers.add(reader)
        self._joined.set()

    async def step(self) -> None:
        """Read once for all live streams: this is the hub. Waits while there is none."""
        if not self._readers:
            self._joined.clear()
            await self._joined.wait()
        # Who joins during the read gets nothing from it: what it was shown may be older.
        readers = list(self._readers)
        cursors: dict[str, int] = {}
        for reader in readers:
            earlier = cursors.get(reader.job_id, reader.last_read)
            cursors[reader.job_id] = min(reader.last_read, earlier)
        logs = await patiently(self._log.read, cursors, LONGEST_READ)
        for reader in readers:
            if reader.job_id in logs:
                reader.put(logs[reader.job_id])
        is_due = time.monotonic() - self._rows_at >= ROWS_EVERY
        if is_due or any(events[-1].type == END for events in logs.values()):
            await self._look_at_rows(readers)
        await asyncio.sleep(PAUSE)

    async def _look_at_rows(self, readers: Sequence[Reader]) -> None:
        """End the readers of jobs that have ended, and those that are no longer welcome."""
        self._rows_at = time.monotonic()
        job_ids = list({reader.job_id for reader in readers})  # many may read one job
        states = await patiently(self._records.read, jobs.states, job_ids)
        for reader in readers:
            # A row that was erased ends its readers, too.
            reader.ended = states.get(reader.job_id, "failed") in ENDED
            if reader.ended or not reader.welcome():
                reader.woken.set()


def _any_is(type_: str, events: Sequence[Event]) -> bool:
    return any(event.type == type_ for event in events)

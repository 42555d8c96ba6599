"""A job as its reader sees it: one ordered stream that resumes, from the row and from the log."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from ragqueue.events.base import DAMAGED, END, FENCE, EventLog
from ragqueue.jobs.views import DELTA, RESTARTED, opening, retold, terminal
from ragqueue.patience import patiently
from ragqueue.records import jobs
from ragqueue.records.store import Records
from ragqueue.types import ENDED, QUEUED_SEQ, Event, Job

KEEP_ALIVE = 15.0  # seconds without an event after which a batch is empty
PAUSE = 0.005  # seconds between two reads of the hub: under load one that finds more tokens costs less than more reads
LONGEST_READ = 0.05  # seconds that the hub waits for an event: a stream that begins is read from the next read on
ROWS_EVERY = (
    1.0  # seconds between looks at the rows of live jobs: the row decides that a job has ended
)
_LOST = Event(
    QUEUED_SEQ, RESTARTED, {"reason": "log_lost"}
)  # a reader that breaks off here resumes at the start
logger = logging.getLogger(__name__)


class Reader:
    """One live stream: what is read for it waits in its inbox, in order."""

    def __init__(self, job: Job, cursor: int, welcome: Callable[[], bool]) -> None:
        self.job_id, self.cursor, self.ended = job.id, cursor, job.ended
        self.inbox: list[Event] = []
        self.woken = (
            asyncio.Event()
        )  # there is something in the inbox, or the job has ended, or the reader must go
        self.welcome = welcome

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
        self._joined = asyncio.Event()
        self._rows_at = 0.0

    async def open(
        self, job: Job, after: int | None = None, *, welcome: Callable[[], bool] = lambda: True
    ) -> AsyncIterator[list[Event]]:
        """Return batches of events after `after` (None: all), empty when nothing happens, to the terminal one.

        All comes again after a lost log. The batches end early once the reader is no longer welcome. Raises Unavailable
        when the log cannot be read now; one that goes away later is waited for.
        """
        shown = max(after or 0, QUEUED_SEQ)
        lead = [event for event in opening(job) if after is None or event.seq > after]
        if not await self._holds(job.id, shown):
            lead, shown = [_LOST], QUEUED_SEQ
        return self._follow(job, lead, shown, welcome)

    async def follow(self, job: Job, after: int | None = None) -> AsyncIterator[list[Event]]:
        """Yield what `open` returns."""
        async for batch in await self.open(job, after):
            yield batch

    async def _follow(
        self, job: Job, lead: list[Event], shown: int, welcome: Callable[[], bool]
    ) -> AsyncIterator[list[Event]]:
        if lead:
            yield lead
        async for batch, seq in self._from_the_log(job, shown, welcome):
            shown = seq
            yield batch
        if not welcome():
            return
        row = await patiently(self._records.read, jobs.get, job.tenant, job.id)
        if row is None:
            return
        answer = await patiently(self._records.read, jobs.answer, job.tenant, job.id)
        if (
            answer and shown < answer["log_end"]
        ):  # the log was lost or damaged, or is past its retention
            yield ([_LOST] if shown > QUEUED_SEQ else []) + retold(row, answer)
        yield [terminal(row, answer)]

    async def _from_the_log(
        self, job: Job, shown: int, welcome: Callable[[], bool]
    ) -> AsyncIterator[tuple[list[Event], int]]:
        """Yield (events, seq of the last one shown) until the job has ended or the reader is not welcome."""
        reader = Reader(job, shown, welcome)
        blind = ended = False  # blind: its log is damaged, the answer is told from the records
        try:
            if not reader.ended:
                self._join(reader)
            while not ended and welcome():
                # What arrived while a lost log was told again may be in it already.
                new = [event for event in await reader.take() if event.seq > shown]
                ended = reader.ended
                if ended:
                    new += await self._after(job.id, new[-1].seq if new else shown)
                if _holds_a(FENCE, new) and (
                    blind or not await patiently(self._holds, job.id, shown)
                ):
                    if not blind:  # a new attempt began without knowing what this reader was shown, or all was erased
                        yield [_LOST], QUEUED_SEQ
                    new, blind, shown = await self._after(job.id, QUEUED_SEQ), False, QUEUED_SEQ
                if _holds_a(DAMAGED, new) and not blind:
                    logger.error(
                        "log.damaged job=%s: its readers are told the answer once it is complete",
                        job.id,
                    )
                    yield [_LOST], QUEUED_SEQ
                    blind = True
                if blind:
                    new, shown = [], QUEUED_SEQ
                shown = new[-1].seq if new else shown
                batch = coalesced(new)
                if batch or not ended:
                    yield batch, shown
        finally:
            self._readers.discard(reader)

    async def _after(self, job_id: str, seq: int) -> list[Event]:
        return (await patiently(self._log.read, {job_id: seq})).get(job_id, [])

    async def _holds(self, job_id: str, seq: int) -> bool:
        """Say whether an event that a reader was shown is (still) in the log. Raises Unavailable."""
        if seq <= QUEUED_SEQ:
            return True
        left = (await self._log.read({job_id: seq - 1})).get(job_id, [])
        return any(event.seq == seq for event in left)

    def _join(self, reader: Reader) -> None:
        self._readers.add(reader)
        self._joined.set()

    async def step(self) -> None:
        """Read once for all live streams: this is the hub. Waits while there is none."""
        if not self._readers:
            self._joined.clear()
            await self._joined.wait()
        readers = list(
            self._readers
        )  # who joins during the read gets nothing from it: its cursor may be older
        cursors: dict[str, int] = {}
        for reader in readers:
            cursors[reader.job_id] = min(reader.cursor, cursors.get(reader.job_id, reader.cursor))
        found = await patiently(self._log.read, cursors, LONGEST_READ)
        for reader in readers:
            if new := [
                event for event in found.get(reader.job_id, ()) if event.seq > reader.cursor
            ]:
                reader.inbox += new
                reader.cursor = new[-1].seq
                reader.woken.set()
        due = time.monotonic() - self._rows_at >= ROWS_EVERY
        if due or any(events[-1].type == END for events in found.values()):
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


def _holds_a(type_: str, events: Sequence[Event]) -> bool:
    return any(event.type == type_ for event in events)


def coalesced(events: list[Event]) -> list[Event]:
    """Return the events that a reader is shown, neighbouring deltas of one item merged into the last of them."""
    shown: list[Event] = []
    for event in events:
        last = shown[-1] if shown and event.type == DELTA else None
        if (
            last
            and last.type == DELTA
            and last.data.get("output_index") == event.data.get("output_index")
        ):
            shown[-1] = Event(
                event.seq,
                DELTA,
                {**event.data, "delta": last.data.get("delta", "") + event.data.get("delta", "")},
                event.at,
            )
        elif event.type not in (FENCE, END):
            shown.append(event)
    return shown

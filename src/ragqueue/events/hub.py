"""Read the logs of all live streams of a process with one call at a time."""

import asyncio
import logging
import time

from ragqueue.errors import Unavailable
from ragqueue.events.base import EventLog
from ragqueue.events.pen import END
from ragqueue.records import jobs
from ragqueue.records.store import Records
from ragqueue.types import ENDED, Event

ROWS_EVERY = 1.0  # seconds between looks at the rows of live jobs: the row decides that a job has ended

logger = logging.getLogger(__name__)


class Reader:
    """One follower of one job: events arrive in its inbox in order."""

    __slots__ = ("_woken", "cursor", "ended", "inbox", "job_id")

    def __init__(self, job_id: str, cursor: int) -> None:
        self.job_id, self.cursor = job_id, cursor
        self.inbox: list[Event] = []
        self.ended = False  # the row says so
        self._woken = asyncio.Event()

    def deliver(self, events: list[Event]) -> None:
        """Take events in that are after the cursor."""
        new = [event for event in events if event.seq > self.cursor]
        if new:
            self.inbox += new
            self.cursor = new[-1].seq
            self._woken.set()

    def end(self) -> None:
        """Learn that the job has ended."""
        self.ended = True
        self._woken.set()

    async def take(self, wait: float) -> list[Event]:
        """Return what arrived; waits up to `wait` seconds for the first event or the end."""
        if not self.inbox and not self.ended:
            try:
                async with asyncio.timeout(wait):
                    await self._woken.wait()
            except TimeoutError:
                return []
        self._woken.clear()
        taken, self.inbox = self.inbox, []
        return taken


class Hub:
    """Shares one read of the log among all readers of a process."""

    def __init__(self, log: EventLog, records: Records) -> None:
        self._log, self._records = log, records
        self._readers: set[Reader] = set()
        self._task: asyncio.Task[None] | None = None
        self._rows_at = 0.0

    @property
    def readers(self) -> int:
        return len(self._readers)

    async def join(self, job_id: str, cursor: int) -> Reader:
        """Return a reader that gets every event of the job after `cursor`."""
        reader = Reader(job_id, cursor)
        self._readers.add(reader)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="hub")
        else:
            await self._log.wake()
        return reader

    def leave(self, reader: Reader) -> None:
        """Forget a reader."""
        self._readers.discard(reader)

    async def close(self) -> None:
        """End every reader."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._readers:
            # Who joins during the read gets nothing from it: its cursor may be older than what is read.
            readers = list(self._readers)
            for step in (self._read, self._look_at_rows):
                try:
                    await step(readers)
                except Unavailable as error:
                    logger.warning("hub.unavailable: %s", error)
                    await asyncio.sleep(0.2)

    async def _read(self, readers: list[Reader]) -> None:
        cursors: dict[str, int] = {}
        for reader in readers:
            cursors[reader.job_id] = min(reader.cursor, cursors.get(reader.job_id, reader.cursor))
        found = await self._log.read(cursors, ROWS_EVERY)
        for reader in readers:
            if events := found.get(reader.job_id):
                reader.deliver(events)
                if events[-1].type == END:
                    self._rows_at = 0.0  # look at once

    async def _look_at_rows(self, readers: list[Reader]) -> None:
        if time.monotonic() - self._rows_at < ROWS_EVERY:
            return
        self._rows_at = time.monotonic()
        states = await self._records.read(jobs.states, sorted({reader.job_id for reader in readers}))
        for reader in readers:
            state, _ = states.get(reader.job_id, ("failed", 0))  # a row that was erased ends its readers, too
            if state in ENDED:
                reader.end()

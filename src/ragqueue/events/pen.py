"""Write the log of runs: one pen per run, one self-clocking batcher per process.

The batcher writes what piled up while its last write was in flight: no delay when idle, and under load it
coalesces by itself. A pen keeps what it wrote: when the log lost its tail, the pen writes it again, unnoticed.
"""

import asyncio
import logging
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from ragqueue.errors import LeaseLost, Unavailable
from ragqueue.events.base import EventLog
from ragqueue.types import Append, Event, Job, seq_of

FENCE = "fence"
END = "end"
INTERNAL = frozenset({FENCE, END})  # entries that readers are not shown
T = TypeVar("T")
R = TypeVar("R")
_LONGEST_PAUSE = 1.0  # seconds between tries while the log is away

logger = logging.getLogger(__name__)


class Pen:
    """Writes the events of one run; every event of the job that the log should hold is in `kept`."""

    def __init__(self, batcher: "Batcher", job_id: str, attempt: int, kept: list[Event], sent: int) -> None:
        self.job_id, self.attempt, self.kept = job_id, attempt, kept
        self._batcher = batcher
        self._sent = sent  # how many of `kept` the log holds
        self._n = 1
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self.lost = False
        self.foreign = False  # the log holds entries that no run of ours knows

    @property
    def end(self) -> int:
        """The sequence number of the last event written."""
        return self.kept[-1].seq

    @property
    def dirty(self) -> bool:
        return not self.lost and self._sent < len(self.kept)

    def write(self, type_: str, data: Mapping[str, Any]) -> None:
        """Add an event to the log, soon. Raises LeaseLost once a newer attempt has raised its fence."""
        if self.lost:
            raise LeaseLost(f"attempt {self.attempt} of job {self.job_id} is no longer current")
        self.kept.append(Event(seq_of(self.attempt, self._n), type_, data, time.time()))
        self._n += 1
        self._batcher.notice(self)

    async def flush(self) -> None:
        """Wait until the log holds everything written so far. Raises LeaseLost."""
        if self.dirty:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append((len(self.kept), waiter))
            self._batcher.notice(self)
            await waiter
        if self.lost:
            raise LeaseLost(f"attempt {self.attempt} of job {self.job_id} is no longer current")

    def next_append(self) -> Append:
        """Return the wish that would bring the log up to date."""
        after = self.kept[self._sent - 1].seq if self._sent else -1
        return Append(self.job_id, after, self.kept[self._sent :])

    def settle(self, end: int) -> None:
        """Learn where the log ends now."""
        if end > self.end:
            self.lost = True
        else:
            self._sent = bisect_right(self.kept, end, key=lambda event: event.seq)
            self.foreign = end != (self.kept[self._sent - 1].seq if self._sent else 0)
        still = []
        for count, waiter in self._waiters:
            if waiter.done():
                continue
            if self.lost or self._sent >= count:
                waiter.set_result(None)
            else:
                still.append((count, waiter))
        self._waiters = still


class Batcher:
    """Writes for all pens of a process in one call at a time."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._dirty: dict[Pen, None] = {}
        self._noticed = asyncio.Event()

    async def open(self, job: Job) -> Pen:
        """Raise the fence of the job's attempt, then read what earlier attempts left. Raises LeaseLost."""
        fence = Event(seq_of(job.attempt, 0), FENCE, {}, time.time())
        if job.attempt == 1:  # nothing can be before it: the fence travels with the first events
            return Pen(self, job.id, 1, [fence], 0)
        [end] = await _patiently(self._log.append, [Append(job.id, -1, [fence])])
        if end != fence.seq:
            raise LeaseLost(f"attempt {job.attempt} of job {job.id} is no longer current")
        kept = (await _patiently(self._log.read, {job.id: 0})).get(job.id, [fence])
        return Pen(self, job.id, job.attempt, kept, len(kept))

    def notice(self, pen: Pen) -> None:
        """Learn that a pen has something to write."""
        self._dirty[pen] = None
        self._noticed.set()

    async def run(self) -> None:
        """Write what piled up, for ever."""
        while True:
            await self._noticed.wait()
            self._noticed.clear()
            pens = [pen for pen in self._dirty if pen.dirty]
            self._dirty.clear()
            ends = await _patiently(self._append, pens) if pens else []
            for pen, end in zip(pens, ends, strict=True):
                pen.settle(end)
                if pen.foreign:
                    # After a lost log an older run may have written its own again before we could: ours replaces it.
                    await _patiently(self._log.drop, [pen.job_id])
                    pen.settle(0)
                if pen.dirty:
                    self.notice(pen)

    async def _append(self, pens: Sequence[Pen]) -> list[int]:
        return await self._log.append([pen.next_append() for pen in pens])  # with what was written since the last try


async def _patiently(use: Callable[[T], Awaitable[R]], given: T) -> R:
    """Use the log; one that is away is waited for: that is no fault of the job's, and its deadline bounds it."""
    pause = 0.05
    while True:
        try:
            return await use(given)
        except Unavailable as error:
            logger.warning("events.unavailable: %s", error)
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)


async def bury(log: EventLog, job_id: str, attempt: int) -> None:
    """Raise a fence that no run stands behind, so that nothing is appended any more."""
    await log.append([Append(job_id, -1, [Event(seq_of(attempt, 0), FENCE, {}, time.time())])])

"""Write the log of runs: one pen per run, one self-clocking batcher per process."""

import asyncio
import logging
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ragqueue.errors import LeaseLost, RagqueueError
from ragqueue.events.base import DAMAGED, EventLog, fence
from ragqueue.patience import patiently
from ragqueue.types import Append, Event, Job, seq_of

# Seconds between two writes: one that finds more tokens costs less than more writes.
PAUSE = 0.008
FAILURES = 3  # surprises of a pen that was written alone: its run fails, and no other one
IsCurrent = Callable[[str, int], Awaitable[bool]]  # (job id, attempt)
logger = logging.getLogger(__name__)


class Pen:
    """Writes the events of one run.

    It keeps all that the log should hold, and writes again what the log lost, unnoticed.
    """

    def __init__(self, batcher: "Batcher", job_id: str, attempt: int) -> None:
        self.job_id = job_id
        self.attempt = attempt
        self.kept: list[Event] = list(fence(job_id, attempt).events)
        self.sent = 0  # how many of `kept` the log holds
        self.settled = asyncio.Event()  # set after each write of the batcher
        self.lost = False  # a newer attempt has raised its fence
        self.failures = 0  # writes of this pen alone that met a surprise
        self._batcher = batcher
        self._n = 1  # of the next event of this attempt

    @property
    def end(self) -> int:
        """The seq of the last event that the log should hold."""
        return self.kept[-1].seq

    @property
    def sent_to(self) -> int:
        """The seq of the last event that the log holds, 0 when it holds none."""
        if self.sent == 0:
            return 0
        return self.kept[self.sent - 1].seq

    @property
    def broken(self) -> bool:
        """Whether its events cannot be written."""
        return self.failures >= FAILURES

    def check(self) -> None:
        """Raise LeaseLost once a newer attempt has raised its fence.

        Raises RagqueueError when its events cannot be written.
        """
        if self.broken:
            raise RagqueueError(
                f"the events of job {self.job_id} cannot be written: see the log of the worker",
                retryable=True,
            )
        if self.lost:
            raise LeaseLost(f"attempt {self.attempt} of job {self.job_id} is no longer current")

    def write(self, type_: str, data: Mapping[str, Any]) -> None:
        """Add an event to the log, soon. Raises LeaseLost, and RagqueueError when it is broken."""
        self.check()
        self.kept.append(
            Event(seq=seq_of(self.attempt, self._n), type=type_, data=data, at=time.time())
        )
        self._n += 1
        self._batcher.notice(self)

    async def flush(self) -> None:
        """Wait until the log holds everything written so far. Raises as `write`."""
        count = len(self.kept)
        while self.sent < count and not self.broken:
            self._batcher.notice(self)
            self.settled.clear()
            await self.settled.wait()
        self.check()

    def take_over(self, events: list[Event]) -> None:
        """Make what earlier attempts left in the log, with our fence, what it should hold."""
        self.kept = events
        self.sent = len(events)
        self.lost = self.end != seq_of(self.attempt, 0)


class Batcher:
    """Writes what piled up since its last write.

    There is no delay when it is idle, and under load it coalesces by itself.
    """

    def __init__(self, log: EventLog, is_current: IsCurrent) -> None:
        """`is_current` says whether an attempt is its job's current one, as the records know."""
        self._log = log
        self._is_current = is_current
        self._dirty: set[Pen] = set()
        self._noticed = asyncio.Event()
        self._singly = 0  # so many pens are written one by one, to find the one that cannot be

    def notice(self, pen: Pen) -> None:
        """Learn that a pen has something to write."""
        self._dirty.add(pen)
        self._noticed.set()

    async def open(self, job: Job) -> Pen:
        """Raise the fence of the job's attempt, then read what earlier attempts left.

        Raises LeaseLost.
        """
        pen = Pen(self, job.id, job.attempt)
        if job.attempt == 1:
            return pen  # before it there is nothing: its fence travels with its first events
        await patiently(self._append, [pen])
        logs = await patiently(self._log.read, {job.id: 0})
        events = logs.get(job.id, pen.kept)
        if any(event.type == DAMAGED for event in events):
            logger.error("log.damaged job=%s: its answer begins anew", job.id)
            await patiently(self._log.drop, [job.id])
            return pen
        pen.take_over(events)
        pen.check()
        return pen

    async def step(self) -> None:
        """Write what piled up; waits until there is something."""
        if not self._dirty:
            self._noticed.clear()
            await self._noticed.wait()
        pens = self._take()
        try:
            ends = await patiently(self._append, pens)
            for pen, end in zip(pens, ends, strict=True):
                await self._settle(pen, end)
        except Exception:
            self._keep_back(pens)
            raise
        await asyncio.sleep(PAUSE)

    def _take(self) -> list[Pen]:
        """Return the pens that are to be written now: all, or one after a surprise."""
        self._dirty = {pen for pen in self._dirty if not (pen.lost or pen.broken)}
        if self._singly == 0:
            pens = list(self._dirty)
            self._dirty = set()
            return pens
        self._singly -= 1
        if not self._dirty:
            return []
        return [self._dirty.pop()]

    def _keep_back(self, pens: Sequence[Pen]) -> None:
        """After a surprise: write them again, one by one.

        So one that cannot be written stops no other.
        """
        self._dirty.update(pens)
        self._singly = len(self._dirty)
        if len(pens) == 1:
            pens[0].failures += 1
            pens[0].settled.set()

    async def _settle(self, pen: Pen, end: int) -> None:
        """Learn from the log's end what it holds of a pen."""
        held_before = pen.sent_to
        pen.failures = 0
        pen.lost = end > pen.end
        pen.sent = bisect_right(pen.kept, end, key=lambda event: event.seq)
        if end < held_before and not await patiently(self._is_current, pen.job_id, pen.attempt):
            # The log lost its tail, or all: it was erased on purpose, and nobody writes it again.
            pen.lost = True
            pen.settled.set()
            return
        if not pen.lost and end != pen.sent_to:
            # After a lost log an older run may have written its own again before we could: ours
            # replaces it.
            await patiently(self._log.drop, [pen.job_id])
            pen.sent = 0
        pen.settled.set()
        if pen.sent < len(pen.kept):
            self.notice(pen)

    async def _append(self, pens: Sequence[Pen]) -> list[int]:
        """Write what the log lacks of these pens, with what was written since the last try."""
        appends = [
            Append(job_id=pen.job_id, after=pen.sent_to or -1, events=pen.kept[pen.sent :])
            for pen in pens
        ]
        return await self._log.append(appends)

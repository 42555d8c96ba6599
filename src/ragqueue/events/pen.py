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

FAILURES = 3  # surprises of a pen that was written alone: its run fails, and no other one
IsCurrent = Callable[[str, int], Awaitable[bool]]  # (job id, attempt)
logger = logging.getLogger(__name__)


class Pen:
    """Writes the events of one run; it keeps all that the log should hold, and writes again what the log lost, unnoticed."""

    def __init__(self, batcher: "Batcher", job_id: str, attempt: int, kept: list[Event]) -> None:
        self.job_id, self.attempt, self.kept = job_id, attempt, kept
        self.sent = 0  # how many of `kept` the log holds
        self.settled = asyncio.Event()  # set after each write of the batcher
        self.lost = False
        self.failures = 0  # writes of this pen alone that met a surprise
        self._batcher, self._n = batcher, 1

    @property
    def end(self) -> int:
        return self.kept[-1].seq

    @property
    def sent_to(self) -> int:
        return self.kept[self.sent - 1].seq if self.sent else 0

    @property
    def broken(self) -> bool:
        """Whether its events cannot be written."""
        return self.failures >= FAILURES

    def check(self) -> None:
        """Raise LeaseLost once a newer attempt has raised its fence; RagqueueError when its events cannot be written."""
        if self.broken:
            raise RagqueueError(
                f"the events of job {self.job_id} cannot be written: see the log of the worker",
                retryable=True,
            )
        if self.lost:
            raise LeaseLost(f"attempt {self.attempt} of job {self.job_id} is no longer current")

    def write(self, type_: str, data: Mapping[str, Any]) -> None:
        """Add an event to the log, soon. Raises LeaseLost."""
        self.check()
        self.kept.append(Event(seq_of(self.attempt, self._n), type_, data, time.time()))
        self._n += 1
        self._batcher.notice(self)

    async def flush(self) -> None:
        """Wait until the log holds everything written so far. Raises LeaseLost."""
        count = len(self.kept)
        while self.sent < count and not self.broken:
            self._batcher.notice(self)
            self.settled.clear()
            await self.settled.wait()
        self.check()


class Batcher:
    """Writes what piled up while its last write was in flight: no delay when idle, and under load it coalesces by itself."""

    def __init__(self, log: EventLog, is_current: IsCurrent) -> None:
        """`is_current` says whether an attempt is still its job's current one, as the records know."""
        self._log, self._is_current = log, is_current
        self._dirty: set[Pen] = set()
        self._noticed = asyncio.Event()
        self._singly = 0  # so many pens are written one by one, to find the one that cannot be

    def notice(self, pen: Pen) -> None:
        """Learn that a pen has something to write."""
        self._dirty.add(pen)
        self._noticed.set()

    async def open(self, job: Job) -> Pen:
        """Raise the fence of the job's attempt, then read what earlier attempts left. Raises LeaseLost."""
        pen = Pen(self, job.id, job.attempt, list(fence(job.id, job.attempt).events))
        if (
            job.attempt > 1
        ):  # before the first attempt there is nothing: its fence travels with its first events
            await patiently(self._append, [pen])
            left = (await patiently(self._log.read, {job.id: 0})).get(job.id, pen.kept)
            if any(event.type == DAMAGED for event in left):
                logger.error("log.damaged job=%s: its answer begins anew", job.id)
                await patiently(self._log.drop, [job.id])
                return pen
            pen.kept = left
            pen.sent, pen.lost = len(pen.kept), pen.end != seq_of(job.attempt, 0)
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

    def _take(self) -> list[Pen]:
        self._dirty = {pen for pen in self._dirty if not (pen.lost or pen.broken)}
        if not self._singly:
            pens, self._dirty = list(self._dirty), set()
            return pens
        self._singly -= 1
        return [self._dirty.pop()] if self._dirty else []

    def _keep_back(self, pens: Sequence[Pen]) -> None:
        """After a surprise: write them again, one by one, so that one that cannot be written stops no other."""
        self._dirty.update(pens)
        self._singly = len(self._dirty)
        if len(pens) == 1:
            pens[0].failures += 1
            pens[0].settled.set()

    async def _settle(self, pen: Pen, end: int) -> None:
        """Learn from the log's end what it holds of a pen."""
        pen.failures = 0
        held_to = pen.sent_to  # what the log held before
        pen.lost = end > pen.end
        pen.sent = bisect_right(pen.kept, end, key=lambda event: event.seq)
        # The log lost its tail, or all. It may have been erased on purpose, and then nobody writes it again.
        if end < held_to and not await patiently(self._is_current, pen.job_id, pen.attempt):
            pen.lost = True
            pen.settled.set()
            return
        if not pen.lost and end != pen.sent_to:
            # After a lost log an older run may have written its own again before we could: ours replaces it.
            await patiently(self._log.drop, [pen.job_id])
            pen.sent = 0
        pen.settled.set()
        if pen.sent < len(pen.kept):
            self.notice(pen)

    async def _append(
        self, pens: Sequence[Pen]
    ) -> list[int]:  # with what was written since the last try
        return await self._log.append(
            [Append(pen.job_id, pen.sent_to or -1, pen.kept[pen.sent :]) for pen in pens]
        )

"""Claim a job, run its kind, append its events, finish it: the same on every queue engine."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from ragqueue import telemetry
from ragqueue.errors import LeaseLost, RagqueueError, Unavailable
from ragqueue.events.pen import END, Batcher, Pen
from ragqueue.jobs.beat import Beat
from ragqueue.jobs.ring import Ringer
from ragqueue.queues.base import JobQueue
from ragqueue.records import jobs
from ragqueue.records.store import Records
from ragqueue.types import Job, Outcome, Ring, State

TRIES = 3
FIRST_DELAY = 1.0  # seconds; doubled for each try, with full jitter
LONGEST_DELAY = 60.0

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Run:
    """One attempt at a job, as its kind sees it."""

    job: Job
    batcher: Batcher
    pen: Pen | None = None
    partial: Callable[[], Outcome] | None = None  # what is kept when the last try fails in the middle
    cancelled: bool = False
    finishing: bool = False

    async def open_pen(self) -> Pen:
        """Raise the attempt's fence and return the pen of its log. Raises LeaseLost, Unavailable."""
        self.pen = await self.batcher.open(self.job)
        return self.pen


Kind = Callable[[Run], Awaitable[Outcome]]


class Worker:
    """Runs jobs of one process; `handle` is what every engine calls for a ring."""

    def __init__(
        self, records: Records, batcher: Batcher, ringer: Ringer, kinds: Mapping[str, Kind], *, owner: str, database: str, lease: float,
        beat_every: float, lanes: str,
    ) -> None:  # fmt: skip
        self._records, self._batcher, self._ringer, self._kinds = records, batcher, ringer, kinds
        self._owner, self._database, self._lease = owner, database, lease
        self._runs: dict[tuple[str, int], tuple[Run, asyncio.Task[None]]] = {}
        self._draining = False
        on_lost, on_cancel = self._lost, self._cancel
        self._beat = Beat(records.url, owner, lanes=lanes, lease=lease, every=beat_every, on_lost=on_lost, on_cancel=on_cancel)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to beat; call it on the loop that handles rings."""
        self._loop = asyncio.get_running_loop()
        self._beat.start()

    async def handle(self, ring: Ring) -> None:
        """Claim and run the job that a ring names; a ring for what is not claimable is dropped. Raises Unavailable."""
        if ring.database not in ("", self._database):
            logger.error("worker.foreign_ring job=%s: it belongs to another database", ring.job_id)
            return
        if self._draining:
            return  # the row still waits, and another worker's reconcile finds it
        claim = asyncio.ensure_future(self._records.write(jobs.claim, ring.job_id, self._owner, ring.stamp, self._lease))
        job = await asyncio.shield(claim)
        if job is None:
            return
        run = Run(job, self._batcher)
        task = asyncio.create_task(self._run(run), name=f"run-{job.id}")
        self._runs[job.id, job.attempt] = run, task
        self._beat.hold(job.id, job.attempt)
        task.add_done_callback(lambda done: self._forget(job, done))
        await asyncio.wait([task])  # a queue that is stopped leaves the run to `drain`

    async def drain(self, seconds: float) -> None:
        """Take nothing new, wait for what runs, then hand the rest back for others to claim at once."""
        self._draining = True
        tasks = [task for _, task in self._runs.values()]
        if tasks and seconds > 0:
            await asyncio.wait(tasks, timeout=seconds)
        for _, task in list(self._runs.values()):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        try:
            self._ringer.ring(await self._records.write(jobs.hand_back, self._owner))
            await self._ringer.flush()
        except Unavailable as error:
            logger.warning("worker.hand_back_failed: %s", error)
        await asyncio.to_thread(self._beat.stop)

    def _forget(self, job: Job, task: asyncio.Task[None]) -> None:
        self._runs.pop((job.id, job.attempt), None)
        self._beat.let_go(job.id, job.attempt)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("worker.run_failed job=%s", job.id, exc_info=error)

    async def _run(self, run: Run) -> None:
        job, began = run.job, time.monotonic()
        try:
            outcome = await self._outcome(run)
            if outcome is not None:
                await self._finish(run, outcome)
        except LeaseLost:
            logger.warning("worker.lease_lost job=%s attempt=%d", job.id, job.attempt)
        finally:
            telemetry.RUN_SECONDS.labels(job.kind).observe(time.monotonic() - began)

    async def _outcome(self, run: Run) -> Outcome | None:
        """Run the job's kind; None when the job was given back."""
        job = run.job
        try:
            async with asyncio.timeout(max(0.1, job.deadline_at - time.time())) as limit:
                if job.kind not in self._kinds:
                    raise RagqueueError(f"no worker of this version knows the kind {job.kind!r}")
                return await self._kinds[job.kind](run)
        except TimeoutError as error:
            if limit.expired():
                return _kept(run, "failed", "deadline_exceeded", "the deadline passed while it ran")
            return await self._failed(run, "timeout", f"a step of the job took too long: {error}")
        except asyncio.CancelledError:
            if not run.cancelled:
                raise  # lost or handed back
            return _kept(run, "cancelled")
        except LeaseLost:
            raise
        except RagqueueError as error:
            return await self._failed(run, error.code, error.message, error.retryable, error.retry_after)
        except Exception as error:  # a bug of ours must not leave the job running for ever
            logger.exception("worker.bug job=%s", job.id)
            return await self._failed(run, "internal_error", f"{type(error).__name__} in the worker: see its log")

    async def _failed(self, run: Run, code: str, message: str, retryable: bool = True, retry_after: float | None = None) -> Outcome | None:
        job = run.job
        if run.cancelled:
            return _kept(run, "cancelled")
        delay = max(random.uniform(0, min(LONGEST_DELAY, FIRST_DELAY * 2**job.tries)), retry_after or 0.0)
        if not retryable or job.tries + 1 >= TRIES or time.time() + delay >= job.deadline_at:
            return _kept(run, "failed", code, message)
        if run.pen is not None:
            await run.pen.flush()
        telemetry.RETRIES.labels(job.kind, code).inc()
        logger.warning("worker.retry job=%s try=%d code=%s delay=%.1f", job.id, job.tries + 1, code, delay)
        await self._records.write(jobs.retry_later, job, delay, code, message)
        return None

    async def _finish(self, run: Run, outcome: Outcome) -> None:
        """Store the outcome once the log holds everything before it; a store that is away is waited for."""
        job, finished, pause = run.job, None, 0.1
        run.finishing = True
        while finished is None:
            try:
                if run.pen is not None:
                    await run.pen.flush()
                finished = await self._records.write(jobs.finish, job, outcome)
            except Unavailable as error:
                logger.warning("worker.finish_waits job=%s: %s", job.id, error)
                await asyncio.sleep(pause)
                pause = min(2.0, pause * 2)
        if not finished:
            raise LeaseLost(f"attempt {job.attempt} of job {job.id} is no longer current")
        telemetry.JOBS.labels(job.kind, outcome.state).inc()
        if run.pen is not None:
            run.pen.write(END, {})

    def _lost(self, job_id: str, attempt: int) -> None:
        self._stop(lambda held: held == (job_id, attempt), cancelled=False)

    def _cancel(self, job_id: str) -> None:
        self._stop(lambda held: held[0] == job_id, cancelled=True)

    def _stop(self, meant: Callable[[tuple[str, int]], bool], *, cancelled: bool) -> None:
        """End runs from the beat's thread."""

        def stop() -> None:
            for run, task in [self._runs[held] for held in self._runs if meant(held)]:
                if not (cancelled and (run.cancelled or run.finishing)):
                    run.cancelled = cancelled
                    task.cancel()

        assert self._loop is not None
        self._loop.call_soon_threadsafe(stop)


def _kept(run: Run, state: State, code: str | None = None, message: str | None = None) -> Outcome:
    return Outcome(state, run.partial().result if run.partial else None, code, message)


async def work(worker: Worker, queue: JobQueue, lanes: Mapping[str, int]) -> None:
    """Consume the lanes, each with its concurrency, until cancelled or one of them is told to end; then the caller drains."""
    async with asyncio.TaskGroup() as group:
        consuming = [group.create_task(queue.work(worker.handle, *lane), name=f"lane-{lane[0]}") for lane in lanes.items()]
        await asyncio.wait(consuming, return_when=asyncio.FIRST_COMPLETED)
        for task in consuming:  # a process that does half of its work would look alive
            task.cancel()

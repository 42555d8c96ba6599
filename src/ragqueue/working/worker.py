"""Claim a job, run its kind, append its events, finish it: the same on every queue engine."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from ragqueue import telemetry
from ragqueue.errors import LeaseLost, RagqueueError, StoreFull, Unavailable, told
from ragqueue.events.base import END
from ragqueue.events.pen import Batcher, Pen
from ragqueue.jobs.ring import Ringer
from ragqueue.patience import patiently
from ragqueue.records import jobs
from ragqueue.records.store import Records
from ragqueue.types import Outcome, Ring
from ragqueue.working.beat import Beat
from ragqueue.working.loops import Keeper
from ragqueue.working.run import Run

TRIES = 3
FIRST_DELAY = 1.0  # seconds; doubled for each try, with full jitter
LONGEST_DELAY = 60.0
HEART = 0.05  # seconds between looks at a heart that does not beat
Kind = Callable[[Run], Awaitable[Outcome]]
logger = logging.getLogger(__name__)


class Worker:
    """Runs jobs of one process; `handle` is what every engine calls for a ring."""

    def __init__(
        self,
        records: Records,
        batcher: Batcher,
        ringer: Ringer,
        kinds: Mapping[str, Kind],
        *,
        keeper: Keeper,
        owner: str,
        database: str,
        lease: float,
        beat_every: float,
        lanes: str,
    ) -> None:
        """Make it on the loop that handles rings."""
        self._records, self._batcher, self._ringer, self._kinds = records, batcher, ringer, kinds
        self._owner, self._database, self._lease = owner, database, lease
        self._runs: dict[tuple[str, int], tuple[Run, asyncio.Task[None]]] = {}
        self._draining = False
        soon: Callable[..., object] = (
            asyncio.get_running_loop().call_soon_threadsafe
        )  # the beat calls from its own thread
        lost, cancel = partial(soon, self._lost), partial(soon, self._cancel)
        self._beat = Beat(
            records.url,
            owner,
            self._runs,
            lanes=lanes,
            lease=lease,
            every=beat_every,
            watch=keeper.watch("beat"),
            on_lost=lost,
            on_cancel=cancel,
        )
        self.start = self._beat.start  # begins to beat

    async def handle(self, ring: Ring) -> None:
        """Claim and run the job that a ring names; a ring for what is not claimable is dropped. Raises Unavailable."""
        if ring.database not in ("", self._database):
            logger.error("worker.foreign_ring job=%s: it belongs to another database", ring.job_id)
            return
        while not (self._beat.beats or self._draining):
            await asyncio.sleep(
                HEART
            )  # a process without a heart claims nothing: it would lose the lease
        if self._draining:
            return  # the row still waits, and another worker's reconcile finds it
        job = await asyncio.shield(
            self._records.write(jobs.claim, ring.job_id, self._owner, ring.stamp, self._lease)
        )
        if job is None:
            return
        run = Run(job, self._batcher)
        task = asyncio.create_task(self._run(run), name=f"run-{job.id}")
        self._runs[job.id, job.attempt] = run, task
        task.add_done_callback(lambda _: self._runs.pop((job.id, job.attempt)))
        await asyncio.wait([task])  # a queue that is stopped leaves the run to `drain`

    async def drain(self, seconds: float) -> None:
        """Take nothing new, wait for what runs, then hand the rest back for others to claim at once."""
        self._draining = True
        for patience in (seconds, 5.0):  # to end; to end after a cancel
            tasks = [task for _, task in self._runs.values()]
            if tasks:
                await asyncio.wait(tasks, timeout=patience)
            for task in tasks:
                task.cancel()
        try:
            self._ringer.ring(await self._records.write(jobs.release, self._owner, False))
            await self._ringer.flush()
        except (StoreFull, Unavailable) as error:
            logger.warning("worker.hand_back_failed: %s", error)
        await asyncio.to_thread(self._beat.stop)

    async def _run(self, run: Run) -> None:
        """Run a job and store its outcome once the log holds everything before it; a store that is away is waited for."""
        job, began = run.job, time.monotonic()
        try:
            if (outcome := await self._outcome(run)) is None:
                return
            run.finishing = True
            if (
                run.pen is not None
                and (outcome := await self._flushed(run, run.pen, outcome)) is None
            ):
                return
            if not await patiently(self._records.write, jobs.finish, job, outcome):
                raise LeaseLost("another attempt is the current one")
            telemetry.JOBS.labels(job.kind, outcome.state).inc()
            if run.pen is not None and not run.pen.broken:
                run.pen.write(END, {})
        except LeaseLost:
            logger.warning("worker.lease_lost job=%s attempt=%d", job.id, job.attempt)
        except Exception:  # the lease runs out, and another attempt is made
            logger.exception("worker.run_failed job=%s", job.id)
        finally:
            telemetry.RUN_SECONDS.labels(job.kind).observe(time.monotonic() - began)

    async def _flushed(self, run: Run, pen: Pen, outcome: Outcome) -> Outcome | None:
        """Return the outcome once the log holds all before it, or what becomes of a run whose events cannot be written."""
        if pen.broken and outcome.state != "succeeded":
            return outcome
        try:
            await pen.flush()
            return outcome
        except LeaseLost:
            raise
        except RagqueueError as error:
            return await self._try_again(run, error)

    async def _outcome(self, run: Run) -> Outcome | None:
        """Run the job's kind; None when the job was given back for another try."""
        job = run.job
        try:
            async with asyncio.timeout(max(0.1, job.deadline_at - time.time())) as limit:
                if job.kind not in self._kinds:
                    raise RagqueueError(f"no worker of this version knows the kind {job.kind!r}")
                return await self._kinds[job.kind](run)
        except asyncio.CancelledError:
            if not run.cancelled:
                raise  # lost or handed back
            return run.kept("cancelled")
        except LeaseLost:
            raise
        except RagqueueError as error:
            return await self._try_again(run, error)
        except TimeoutError as error:
            if limit.expired():
                return run.kept("failed", "deadline_exceeded", "the deadline passed while it ran")
            return await self._try_again(
                run, Unavailable(f"a step of the job took too long: {told(error)}")
            )
        except Exception as error:  # a bug of ours must not leave the job running for ever
            logger.exception("worker.bug job=%s", job.id)
            return await self._try_again(
                run,
                RagqueueError(f"{type(error).__name__} in the worker: see its log", retryable=True),
            )

    async def _try_again(self, run: Run, error: RagqueueError) -> Outcome | None:
        """Give the job back, or return how it ends when no try is left or none would help."""
        job = run.job
        delay = max(
            random.uniform(0, min(LONGEST_DELAY, FIRST_DELAY * 2**job.tries)),
            error.retry_after or 0.0,
        )
        if run.cancelled:
            return run.kept("cancelled")
        if not error.retryable or job.tries + 1 >= TRIES or time.time() + delay >= job.deadline_at:
            return run.kept("failed", error.code, error.message)
        if run.pen is not None and not run.pen.broken:
            await run.pen.flush()
        telemetry.RETRIES.labels(job.kind, error.code).inc()
        logger.warning(
            "worker.retry job=%s try=%d code=%s delay=%.1f",
            job.id,
            job.tries + 1,
            error.code,
            delay,
        )
        await patiently(
            self._records.write, jobs.retry_later, job, delay, error.code, error.message
        )
        return None

    def _lost(self, job_id: str, attempt: int) -> None:
        if (job_id, attempt) in self._runs:
            run, task = self._runs[job_id, attempt]
            run.cancelled = False
            task.cancel()

    def _cancel(self, job_id: str) -> None:
        for (held, _), (run, task) in self._runs.items():
            if held == job_id and not (run.cancelled or run.finishing):
                run.cancelled = True
                task.cancel()

"""Claim a job, run its kind, append its events, finish it: the same on every queue engine."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import NamedTuple

from ragqueue import telemetry
from ragqueue.errors import LeaseLost, RagqueueError, StoreFull, Unavailable, told
from ragqueue.events.base import END
from ragqueue.events.pen import Batcher, Pen
from ragqueue.jobs.ring import Ringer
from ragqueue.patience import patiently
from ragqueue.records import jobs
from ragqueue.records.store import Records
from ragqueue.types import Outcome, Ring
from ragqueue.working.beat import Attempt, Beat
from ragqueue.working.loops import Keeper
from ragqueue.working.run import Run

TRIES = 3
FIRST_DELAY = 1.0  # seconds; doubled for each try, with full jitter
LONGEST_DELAY = 60.0
HEART = 0.05  # seconds between looks at a heart that does not beat
LAST_PATIENCE = 5.0  # seconds that a run has to end after it was cancelled
SHORTEST_RUN = 0.1  # seconds that a run has, however near its deadline is
Kind = Callable[[Run], Awaitable[Outcome]]
logger = logging.getLogger(__name__)


class Held(NamedTuple):
    """A run of this process, and the task that does it."""

    run: Run
    task: asyncio.Task[None]


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
        """Make it on the loop that handles rings. `lease`, `beat_every`: seconds."""
        self._records = records
        self._batcher = batcher
        self._ringer = ringer
        self._kinds = kinds
        self._owner = owner
        self._database = database
        self._lease = lease
        self._held: dict[Attempt, Held] = {}
        self._draining = False
        # The beat calls from a thread of its own.
        soon: Callable[..., object] = asyncio.get_running_loop().call_soon_threadsafe
        self._beat = Beat(
            records.session(),
            owner,
            self._held,
            lanes=lanes,
            lease=lease,
            every=beat_every,
            watch=keeper.watch("beat"),
            on_lost=partial(soon, self._lost),
            on_cancel=partial(soon, self._cancel),
        )

    def start(self) -> None:
        """Begin to beat."""
        self._beat.start()

    async def handle(self, ring: Ring) -> None:
        """Claim and run the job that a ring names. Raises Unavailable.

        A ring for what is not claimable is dropped.
        """
        if ring.database not in ("", self._database):
            logger.error("worker.foreign_ring job=%s: it belongs to another database", ring.job_id)
            return
        while not (self._beat.beats or self._draining):
            await asyncio.sleep(HEART)  # without a heart it would lose the lease: it claims nothing
        if self._draining:
            return  # the row still waits, and another worker's reconcile finds it
        claiming = self._records.write(
            jobs.claim, ring.job_id, self._owner, ring.stamp, self._lease
        )
        job = await asyncio.shield(claiming)
        if job is None:
            return
        attempt = (job.id, job.attempt)
        run = Run(job, self._batcher)
        task = asyncio.create_task(self._run(run), name=f"run-{job.id}")
        self._held[attempt] = Held(run, task)
        task.add_done_callback(lambda _: self._held.pop(attempt))
        await asyncio.wait([task])  # a queue that is stopped leaves the run to `drain`

    async def drain(self, seconds: float) -> None:
        """Take nothing new, wait for what runs, then hand the rest back for others to claim."""
        self._draining = True
        await self._end_runs(seconds)
        await self._end_runs(LAST_PATIENCE)
        try:
            self._ringer.ring(await self._records.write(jobs.hand_back, self._owner))
            await self._ringer.flush()
        except (StoreFull, Unavailable) as error:
            logger.warning("worker.hand_back_failed: %s", error)
        await asyncio.to_thread(self._beat.stop)

    async def _end_runs(self, seconds: float) -> None:
        """Wait for what runs, then cancel it."""
        tasks = [held.task for held in self._held.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()

    async def _run(self, run: Run) -> None:
        """Run a job; a surprise in doing so leaves it to another attempt."""
        began = time.monotonic()
        try:
            await self._run_to_its_end(run)
        except LeaseLost:
            logger.warning("worker.lease_lost job=%s attempt=%d", run.job.id, run.job.attempt)
        except Exception:  # the lease runs out, and another attempt is made
            logger.exception("worker.run_failed job=%s", run.job.id)
        finally:
            telemetry.RUN_SECONDS.labels(run.job.kind).observe(time.monotonic() - began)

    async def _run_to_its_end(self, run: Run) -> None:
        """Run a job and store its outcome once the log holds everything before it.

        A store that is away is waited for. Raises LeaseLost.
        """
        outcome = await self._outcome(run)
        if outcome is None:
            return
        run.finishing = True
        if run.pen is not None:
            outcome = await self._flushed(run, run.pen, outcome)
            if outcome is None:
                return
        if not await patiently(self._records.write, jobs.finish, run.job, outcome):
            raise LeaseLost("another attempt is the current one")
        telemetry.JOBS.labels(run.job.kind, outcome.state).inc()
        if run.pen is not None and not run.pen.broken:
            run.pen.write(END, {})

    async def _flushed(self, run: Run, pen: Pen, outcome: Outcome) -> Outcome | None:
        """Return the outcome once the log holds all before it.

        Or what becomes of a run whose events cannot be written. Raises LeaseLost.
        """
        if pen.broken and outcome.state != "succeeded":
            return outcome
        try:
            await pen.flush()
        except LeaseLost:
            raise
        except RagqueueError as error:
            return await self._try_again(run, error)
        return outcome

    async def _outcome(self, run: Run) -> Outcome | None:
        """Run the job's kind. Raises LeaseLost.

        Returns None when the job was given back for another try.
        """
        job = run.job
        try:
            async with asyncio.timeout(max(SHORTEST_RUN, run.seconds_left)) as limit:
                if job.kind not in self._kinds:
                    raise RagqueueError(f"no worker of this version knows the kind {job.kind!r}")
                return await self._kinds[job.kind](run)
        except asyncio.CancelledError:
            if not run.cancelled:
                raise  # lost or handed back
            return run.outcome("cancelled")
        except LeaseLost:
            raise
        except RagqueueError as error:
            return await self._try_again(run, error)
        except TimeoutError as error:
            if limit.expired():
                return run.outcome(
                    "failed", "deadline_exceeded", "the deadline passed while it ran"
                )
            slow = Unavailable(f"a step of the job took too long: {told(error)}")
            return await self._try_again(run, slow)
        except Exception as error:  # a bug of ours must not leave the job running for ever
            logger.exception("worker.bug job=%s", job.id)
            bug = RagqueueError(
                f"{type(error).__name__} in the worker: see its log", retryable=True
            )
            return await self._try_again(run, bug)

    async def _try_again(self, run: Run, error: RagqueueError) -> Outcome | None:
        """Give the job back, or return how it ends when no try is left or none would help."""
        if run.cancelled:
            return run.outcome("cancelled")
        job = run.job
        delay = pause_before(job.tries, error)
        if not error.retryable or job.tries + 1 >= TRIES or delay >= run.seconds_left:
            return run.outcome("failed", error.code, error.message)
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
        held = self._held.get((job_id, attempt))
        if held is not None:
            held.run.cancelled = False
            held.task.cancel()

    def _cancel(self, job_id: str) -> None:
        for run, task in self._held.values():
            if run.job.id == job_id and not (run.cancelled or run.finishing):
                run.cancelled = True
                task.cancel()


def pause_before(tries: int, error: RagqueueError) -> float:
    """Return after how many seconds a job is tried again.

    That is with full jitter, but not before a server asks for it.
    """
    longest = min(LONGEST_DELAY, FIRST_DELAY * 2.0**tries)
    return max(random.uniform(0, longest), error.retry_after or 0.0)

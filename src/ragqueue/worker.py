"""Claim a job, run its kind, append its events, finish it: the same on every queue engine."""

import asyncio
import logging
import math
import random
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from functools import partial

from sqlalchemy import URL, Connection
from sqlalchemy.exc import DBAPIError

from ragqueue import telemetry
from ragqueue.errors import LeaseLost, RagqueueError, StoreFull, Unavailable, told
from ragqueue.events.pen import END, Batcher, Pen, Run, patiently
from ragqueue.jobs.submit import Ringer
from ragqueue.queues.base import Handle, JobQueue
from ragqueue.records import jobs, workers
from ragqueue.records.store import Records, open_engine, transact
from ragqueue.types import Outcome, Ring
from ragqueue.working.loops import Keeper, Watch

TRIES = 3
FIRST_DELAY = 1.0  # seconds; doubled for each try, with full jitter
LONGEST_DELAY = 60.0
HEART = 0.05  # seconds between looks at a heart that does not beat
Kind = Callable[[Run], Awaitable[Outcome]]
logger = logging.getLogger(__name__)


class Worker:
    """Runs jobs of one process; `handle` is what every engine calls for a ring."""

    def __init__(
        self, records: Records, batcher: Batcher, ringer: Ringer, kinds: Mapping[str, Kind], *, keeper: Keeper, owner: str, database: str,
        lease: float, beat_every: float, lanes: str,
    ) -> None:  # fmt: skip
        """Make it on the loop that handles rings."""
        self._records, self._batcher, self._ringer, self._kinds = records, batcher, ringer, kinds
        self._owner, self._database, self._lease = owner, database, lease
        self._runs: dict[tuple[str, int], tuple[Run, asyncio.Task[None]]] = {}
        self._draining = False
        soon: Callable[..., object] = asyncio.get_running_loop().call_soon_threadsafe  # the beat calls from its own thread
        lost, cancel = partial(soon, self._lost), partial(soon, self._cancel)
        self._beat = Beat(
            records.url, owner, self._runs, lanes=lanes, lease=lease, every=beat_every, watch=keeper.watch("beat"),
            on_lost=lost, on_cancel=cancel,
        )  # fmt: skip
        self.start = self._beat.start  # begins to beat

    async def handle(self, ring: Ring) -> None:
        """Claim and run the job that a ring names; a ring for what is not claimable is dropped. Raises Unavailable."""
        if ring.database not in ("", self._database):
            logger.error("worker.foreign_ring job=%s: it belongs to another database", ring.job_id)
            return
        while not (self._beat.beats or self._draining):
            await asyncio.sleep(HEART)  # a process without a heart claims nothing: it would lose the lease
        if self._draining:
            return  # the row still waits, and another worker's reconcile finds it
        job = await asyncio.shield(self._records.write(jobs.claim, ring.job_id, self._owner, ring.stamp, self._lease))
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
            if run.pen is not None and (outcome := await self._flushed(run, run.pen, outcome)) is None:
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
            return await self._try_again(run, Unavailable(f"a step of the job took too long: {told(error)}"))
        except Exception as error:  # a bug of ours must not leave the job running for ever
            logger.exception("worker.bug job=%s", job.id)
            return await self._try_again(run, RagqueueError(f"{type(error).__name__} in the worker: see its log", retryable=True))

    async def _try_again(self, run: Run, error: RagqueueError) -> Outcome | None:
        """Give the job back, or return how it ends when no try is left or none would help."""
        job = run.job
        delay = max(random.uniform(0, min(LONGEST_DELAY, FIRST_DELAY * 2**job.tries)), error.retry_after or 0.0)
        if run.cancelled:
            return run.kept("cancelled")
        if not error.retryable or job.tries + 1 >= TRIES or time.time() + delay >= job.deadline_at:
            return run.kept("failed", error.code, error.message)
        if run.pen is not None and not run.pen.broken:
            await run.pen.flush()
        telemetry.RETRIES.labels(job.kind, error.code).inc()
        logger.warning("worker.retry job=%s try=%d code=%s delay=%.1f", job.id, job.tries + 1, error.code, delay)
        await patiently(self._records.write, jobs.retry_later, job, delay, error.code, error.message)
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


class Beat(threading.Thread):
    """Renews leases, notices lost ones and cancels, from a thread and connection of its own: a blocked loop must not lose 200 of them."""

    def __init__(
        self, url: URL, owner: str, held: Collection[tuple[str, int]], *, lanes: str, lease: float, every: float, watch: Watch,
        on_lost: Callable[[str, int], object], on_cancel: Callable[[str], object],
    ) -> None:  # fmt: skip
        """`held` always has the (job id, attempt) of each run of the process; both callbacks run in this thread."""
        super().__init__(name="beat", daemon=True)
        self._engine = open_engine(url, pool_size=1)
        self._owner, self._held, self._lanes, self._lease, self._every = owner, held, lanes, lease, every
        self._watch, self._on_lost, self._on_cancel = watch, on_lost, on_cancel
        self._stopped = threading.Event()
        self._renewed_at = -math.inf

    @property
    def beats(self) -> bool:
        """Whether the leases that this process takes will be renewed in time."""
        return time.monotonic() - self._renewed_at < self._lease

    def stop(self) -> None:
        """End the thread and take the process out of the table of workers."""
        self._stopped.set()
        self.join()
        self._engine.dispose()

    def run(self) -> None:
        while not self._stopped.is_set():
            pause = min(0.5, self._every)  # seconds between looks for cancels
            try:
                with self._engine.connect() as connection:
                    while not self._stopped.is_set():
                        self.step(connection)
                        self._watch.went_well()
                        self._stopped.wait(pause)
            except DBAPIError as error:
                logger.warning("beat.failed: %s", told(error.orig or error))
            except Exception as error:  # noqa: BLE001 - a process without a heart would lose all that it holds
                pause = self._watch.failed(error)
            self._stopped.wait(pause)
        with suppress(DBAPIError), self._engine.connect() as connection:
            transact(connection, self._renew, set[tuple[str, int]](), telemetry.take_counts())
            transact(connection, workers.leave, self._owner)

    def step(self, connection: Connection) -> None:
        """Renew what is due, then look for cancels. Raises DBAPIError."""
        # After a stall (SIGSTOP, suspend) this thread is late, too: it renews before it does anything else.
        if time.monotonic() - self._renewed_at >= self._every:
            began = time.monotonic()
            held, counts = set(self._held), telemetry.take_counts()
            try:
                still = transact(connection, self._renew, held, counts)
            except BaseException:
                telemetry.give_back(counts)
                raise
            for lost in (held - still.items()) & set(self._held):
                self._on_lost(*lost)
            self._renewed_at = began
        for job_id in jobs.cancels(connection, self._owner) if self._held else ():
            self._on_cancel(job_id)

    def _renew(self, connection: Connection, held: set[tuple[str, int]], counts: telemetry.Counts) -> dict[str, int]:
        workers.beat(connection, self._owner, self._lanes, len(held), counts)
        return jobs.renew(connection, self._owner, [job_id for job_id, _ in held], self._lease) if held else {}


async def work(worker: Worker, queue: JobQueue, lanes: Mapping[str, int], keeper: Keeper) -> None:
    """Consume the lanes, each with its concurrency, until cancelled or one of them is told to end; then the caller drains."""
    async with asyncio.TaskGroup() as group:
        consuming = [
            group.create_task(_consume(queue, worker.handle, lane, most, keeper.watch("lanes")), name=f"lane-{lane}")
            for lane, most in lanes.items()
        ]
        await asyncio.wait(consuming, return_when=asyncio.FIRST_COMPLETED)
        for task in consuming:  # a process that does half of its work would look alive
            task.cancel()


async def _consume(queue: JobQueue, handle: Handle, lane: str, concurrency: int, watch: Watch) -> None:
    """Consume one lane until it is told to end; a surprise is waited out."""
    while True:
        try:
            return await queue.work(handle, lane, concurrency)
        except Exception as error:  # noqa: BLE001 - what an engine raises can be anything
            await asyncio.sleep(watch.failed(error))

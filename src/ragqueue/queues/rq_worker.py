"""A true RQ worker that runs hundreds of jobs on one asyncio loop."""

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from redis import Redis, RedisError
from rq import command, executions, results, suspension, utils, worker_registration

from ragqueue import brokers
from ragqueue.queues.base import Handle, ring_of
from ragqueue.queues.ring_job import FAILED_FOR, RingJob, RingWorker
from ragqueue.types import Ring

TAKE_WAIT = 0.25  # seconds of one blocking pop: bounds how long a stop takes
# Seconds until RQ calls an execution abandoned and rings again; renewed when a sixth of it is over.
LEASE = 90
PAUSE = 1.0  # seconds between two signs of life, and between tries while Redis is away
TAKEN = 100  # rings taken at once, at most


class ConcurrentWorker(RingWorker):
    """Runs many jobs of one queue on one loop.

    A thread keeps RQ's books, for many jobs in one round trip.
    """

    # Seconds that a command may take; RQ's own is the life time of a worker.
    connection_timeout = 10

    def __init__(self, queues: Sequence[Any], name: str | None = None, **options: Any) -> None:
        super().__init__(queues, name, **options)
        self.birth_date = utils.now()
        self._stopping = threading.Event()
        self._running: dict[futures.Future[None], executions.Execution] = {}
        self._ended: SimpleQueue[futures.Future[None]] = SimpleQueue()
        self._backlog = 0  # rings that waited when the last ones were taken
        self._suspended = False
        self._beaten_at = 0.0  # by the monotonic clock

    async def consume(self, handle: Handle, concurrency: int, *, burst: bool = False) -> None:
        """Call `handle` for each ring until cancelled or stopped.

        `burst`: until none waits and all are handled.
        """
        loop = asyncio.get_running_loop()
        with futures.ThreadPoolExecutor(1, "rq") as thread:
            working = loop.run_in_executor(thread, self._work, handle, loop, concurrency, burst)
            try:
                await asyncio.shield(working)
            finally:
                self._stopping.set()
                await working

    def retire(self) -> None:
        """Sign off from RQ; deliveries that still run are not waited for."""
        self._stopping.set()
        if self.pubsub_thread:
            self.pubsub_thread.stop()
        with suppress(RedisError):
            self._keep_books()
            self.teardown()

    def _work(
        self, handle: Handle, loop: asyncio.AbstractEventLoop, concurrency: int, burst: bool
    ) -> None:
        """Take rings, start their handles on the loop, and keep RQ's books, until stopped.

        `burst`: until none waits and all are handled. It runs in a thread of its own.
        """
        away = False
        while not self._stopping.is_set():
            try:
                self._beat_when_due()
                free = 0 if self._suspended else concurrency - len(self._running)
                if free:
                    self._start(self._take(free), handle, loop)
                    if burst and not self._running and not self._backlog:
                        return
                # Taking waits for rings; where nothing can be taken, the wait is for an end.
                self._keep_books(0 if free else TAKE_WAIT)
                # Not all of RQ's maintenance: that may fork a scheduler.
                if self.should_run_maintenance_tasks:
                    self.clean_registries()
                away = False
            except Exception as error:
                # What stands in Redis can be anything. What was taken rings again: RQ finds it, or
                # our reconcile.
                if not away:
                    self.log.warning(
                        "rq.unavailable: waiting for Redis: %s",
                        brokers.reason(error),
                        exc_info=not isinstance(error, RedisError),
                    )
                away = True
                self._stopping.wait(PAUSE)

    def _take(self, free: int) -> dict[executions.Execution, Ring]:
        """Take rings, at most as many as slots are free, and write into RQ's books that they run.

        What is no ring is dropped. Raises RedisError.
        """
        queue = self.queues[0]
        passed = queue.intermediate_queue_key
        first = self.connection.blmove(queue.key, passed, TAKE_WAIT)
        if first is None:
            self._backlog = 0
            return {}
        with self.connection.pipeline() as pipeline:
            if self._stopping.is_set():
                # In front of the queue again.
                pipeline.lrem(passed, 1, first).lpush(queue.key, first).execute()
                return {}
            for _ in range(min(free, self._backlog, TAKEN) - 1):
                pipeline.lmove(queue.key, passed)
            rest = [raw_id for raw_id in pipeline.execute() if raw_id is not None]
            raw_ids = [first, *rest]
            for raw_id in raw_ids:
                pipeline.hgetall(RingJob.key_for(raw_id.decode(errors="replace")))
            pipeline.llen(queue.key)
            *hashes, self._backlog = pipeline.execute(raise_on_error=False)
            begun = self._begin(raw_ids, hashes, pipeline)
            pipeline.execute()
        return begun

    def _begin(
        self, raw_ids: Sequence[bytes], hashes: Sequence[Any], pipeline: Any
    ) -> dict[executions.Execution, Ring]:
        """Add to the pipeline that what was taken runs now.

        `hashes`: what Redis answers to HGETALL of each RQ job, in the order of the ids.
        """
        queue = self.queues[0]
        passed = queue.intermediate_queue_key
        begun = {}
        for raw_id, fields in zip(raw_ids, hashes, strict=True):
            pipeline.lrem(passed, 1, raw_id)
            try:
                rq_job = RingJob(raw_id.decode(), self.connection)
                rq_job.restore(fields)
                ring = ring_of(rq_job.args)
            except Exception:
                # Its ring is lost; or it is doubled and done; or it is no ring at all.
                self.log.warning("rq.dropped: %.100r", raw_id, exc_info=bool(fields))
                continue
            rq_job.origin = queue.name
            execution = executions.Execution.create(rq_job, LEASE, pipeline, self.name)
            rq_job.prepare_for_execution(self.name, pipeline)
            begun[execution] = ring
        return begun

    def _start(
        self,
        begun: Mapping[executions.Execution, Ring],
        handle: Handle,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        for execution, ring in begun.items():
            future = asyncio.run_coroutine_threadsafe(handle(ring), loop)
            self._running[future] = execution
            future.add_done_callback(self._ended.put)

    def _keep_books(self, wait: float = 0) -> None:
        """Write into RQ's books what ended, all that piled up at once.

        That is enough for jobs without callbacks and results. `wait`: seconds for the first end.
        Raises RedisError.
        """
        with self.connection.pipeline() as pipeline:
            for future in self._piled_up(wait):
                self._book_end(future, pipeline)
            pipeline.execute()

    def _piled_up(self, wait: float) -> Iterator[futures.Future[None]]:
        """Yield the deliveries that ended; only the first is waited for."""
        with suppress(Empty):
            yield self._ended.get(timeout=wait)
            while True:
                yield self._ended.get_nowait()

    def _book_end(self, future: futures.Future[None], pipeline: Any) -> None:
        """Add to the pipeline how a delivery ended."""
        execution = self._running.pop(future)
        rq_job = execution.job
        execution.delete(rq_job, pipeline)
        self.increment_total_working_time(utils.now() - execution.created_at, pipeline)
        if future.cancelled():
            self._book_failure(rq_job, None, pipeline)
            return
        error = future.exception()
        if error is not None:
            self._book_failure(rq_job, error, pipeline)
            return
        pipeline.delete(rq_job.key)
        self.increment_successful_job_count(pipeline)

    def _book_failure(self, rq_job: RingJob, error: BaseException | None, pipeline: Any) -> None:
        """Add to the pipeline that a delivery failed with an error, or was stopped (None)."""
        self.log.warning("rq.failed: job %s", rq_job.id, exc_info=error)
        self.increment_failed_job_count(pipeline)
        if error is not None and rq_job.should_retry:
            rq_job.retry(self.queues[0], pipeline)
            return
        rq_job.set_status("failed" if error else "stopped", pipeline)
        rq_job.failed_job_registry.add(rq_job, FAILED_FOR, pipeline=pipeline)
        cause = repr(error or "stopped")
        results.Result.create_failure(rq_job, FAILED_FOR, cause, self.name, pipeline)

    def _beat_when_due(self) -> None:
        if time.monotonic() - self._beaten_at >= PAUSE:
            self._beaten_at = time.monotonic()
            self._beat()

    def _beat(self) -> None:
        """Tell RQ what lives here, and learn whether it suspends us. Raises RedisError."""
        if self.pubsub_thread is None:
            self.subscribe()
        with self.connection.pipeline() as pipeline:
            # Each time again: after FLUSHALL nothing is left.
            worker_registration.register(self, pipeline)
            self.heartbeat(pipeline=pipeline)
            pipeline.hset(self.key, mapping=self.serialize())
            self.set_state("busy" if self._running else "idle", pipeline)
            self._renew_leases(pipeline)
            pipeline.exists(suspension.WORKERS_SUSPENDED)
            answers = pipeline.execute()
        self._suspended = bool(answers[-1])

    def _renew_leases(self, pipeline: Any) -> None:
        started = self.queues[0].started_job_registry
        for execution in self._running.values():
            if (utils.now() - execution.last_heartbeat).seconds >= LEASE / 6:
                execution.heartbeat(started, LEASE, pipeline)

    def handle_payload(self, message: Any) -> None:
        """Obey `rq`: shutdown ends `consume`, stop ends a delivery for good.

        RQ's own way to shut down kills the process on Windows.
        """
        payload = command.parse_payload(message)
        if payload["command"] == "shutdown":
            self._stopping.set()
        # A copy, for another thread keeps the books meanwhile.
        for future, execution in list(self._running.items()):
            if execution.job_id == payload.get("job_id"):
                future.cancel()

    def _set_ip_address(self, connection: Redis) -> None:
        self.ip_address = "unknown"
        with suppress(RedisError):  # a worker may be made while Redis is away
            super()._set_ip_address(connection)

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:
        # Redis is away, of which the worker tells; or it was a bad command.
        self.log.debug("rq.commands: %r", exc)
        time.sleep(PAUSE)

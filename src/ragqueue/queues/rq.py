"""RQ on Redis as the doorbell: an RQ queue a lane, an RQ job a ring, and a true RQ worker that runs hundreds of them on one asyncio loop."""

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent import futures
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from redis import Redis, RedisError, backoff, retry
from rq import Queue, command, executions, job, results, suspension, utils, worker_registration

from ragqueue import brokers
from ragqueue.adapters import Given
from ragqueue.errors import ConfigError, Unavailable, without_password
from ragqueue.queues.base import Handle, JobQueue, ring_of
from ragqueue.queues.ring_job import (
    CHECK,
    FAILED_FOR,
    HANDLER,
    QUEUE_PREFIX,
    RETRIES,
    RingJob,
    RingWorker,
    failed_notes,
    questions,
)
from ragqueue.types import LANES, Ring

TAKE_WAIT = 0.25  # seconds of one blocking pop: bounds how long a stop takes
LEASE = 90  # seconds until RQ calls an execution abandoned and rings again; renewed when a sixth of it is over
PAUSE = 1.0  # seconds between two signs of life, and between tries while Redis is away
TAKEN = 100  # rings taken at once, at most
BATCH = 1000  # rings sent in one transaction


class ConcurrentWorker(RingWorker):
    """A true RQ worker that runs many jobs of one queue on one loop; a thread keeps RQ's books, for many jobs in one round trip."""

    connection_timeout = (
        10  # seconds that a command may take; RQ's own is the life time of a worker
    )

    def __init__(self, queues: Sequence[Any], name: str | None = None, **options: Any) -> None:
        super().__init__(queues, name, **options)
        self.birth_date = utils.now()
        self._stopping = threading.Event()
        self._running: dict[futures.Future[None], executions.Execution] = {}
        self._ended: SimpleQueue[futures.Future[None]] = SimpleQueue()
        self._backlog = 0  # rings that waited when the last ones were taken
        self._suspended = False

    async def consume(self, handle: Handle, concurrency: int, *, burst: bool = False) -> None:
        """Call `handle` for each ring until cancelled or stopped; burst: until none waits and all are handled."""
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
        away, beaten = False, 0.0
        while not self._stopping.is_set():
            try:
                if time.monotonic() - beaten >= PAUSE:
                    beaten = time.monotonic()
                    self._beat()
                free = 0 if self._suspended else concurrency - len(self._running)
                for execution, ring in (self._take(free) if free else {}).items():
                    future = asyncio.run_coroutine_threadsafe(handle(ring), loop)
                    self._running[future] = execution
                    future.add_done_callback(self._ended.put)
                if burst and free and not (self._running or self._backlog):
                    return
                self._keep_books(0 if free else TAKE_WAIT)
                if (
                    self.should_run_maintenance_tasks
                ):  # not all of RQ's maintenance: that may fork a scheduler
                    self.clean_registries()
                away = False
            except Exception as error:  # what stands in Redis can be anything; what was taken rings again: RQ finds it, or our reconcile
                if not away:
                    self.log.warning(
                        "rq.unavailable: waiting for Redis: %s",
                        brokers.reason(error),
                        exc_info=not isinstance(error, RedisError),
                    )
                away = True
                self._stopping.wait(PAUSE)

    def _take(self, free: int) -> dict[executions.Execution, Ring]:
        """Take rings, and write into RQ's books that they run now; what is no ring is dropped. Raises RedisError."""
        queue, begun = self.queues[0], dict[executions.Execution, Ring]()
        key, passed = queue.key, queue.intermediate_queue_key
        if (first := self.connection.blmove(key, passed, TAKE_WAIT)) is None:
            self._backlog = 0
            return begun
        with self.connection.pipeline() as pipeline:
            if self._stopping.is_set():  # in front of the queue again
                pipeline.lrem(passed, 1, first).lpush(key, first).execute()
                return begun
            for _ in range(min(free, self._backlog, TAKEN) - 1):
                pipeline.lmove(key, passed)
            taken = [first, *(raw for raw in pipeline.execute() if raw is not None)]
            for raw in taken:
                pipeline.hgetall(RingJob.key_for(raw.decode(errors="replace")))
            *found, self._backlog = pipeline.llen(key).execute(raise_on_error=False)
            for raw, data in zip(taken, found, strict=True):
                pipeline.lrem(passed, 1, raw)
                try:
                    rq_job = RingJob(raw.decode(), self.connection)
                    rq_job.restore(data)
                    ring = ring_of(rq_job.args)
                except (
                    Exception
                ):  # its ring is lost; or it is doubled and done; or it is no ring at all
                    self.log.warning("rq.dropped: %.100r", raw, exc_info=bool(data))
                    continue
                rq_job.origin = queue.name
                begun[executions.Execution.create(rq_job, LEASE, pipeline, self.name)] = ring
                rq_job.prepare_for_execution(self.name, pipeline)
            pipeline.execute()
        return begun

    def _keep_books(self, wait: float = 0) -> None:
        """Write into RQ's books what ended, all that piled up at once: for jobs without callbacks and results. Raises RedisError."""
        with self.connection.pipeline() as pipeline:
            with suppress(Empty):
                while future := self._ended.get(timeout=0 if len(pipeline) else wait):
                    execution = self._running.pop(future)
                    rq_job, error = (
                        execution.job,
                        None if future.cancelled() else future.exception(),
                    )
                    execution.delete(rq_job, pipeline)
                    self.increment_total_working_time(utils.now() - execution.created_at, pipeline)
                    if not future.cancelled() and error is None:
                        pipeline.delete(rq_job.key)
                        self.increment_successful_job_count(pipeline)
                        continue
                    self.log.warning("rq.failed: job %s", rq_job.id, exc_info=error)
                    self.increment_failed_job_count(pipeline)
                    if error and rq_job.should_retry:
                        rq_job.retry(self.queues[0], pipeline)
                    else:
                        rq_job.set_status("failed" if error else "stopped", pipeline)
                        rq_job.failed_job_registry.add(rq_job, FAILED_FOR, pipeline=pipeline)
                        results.Result.create_failure(
                            rq_job, FAILED_FOR, repr(error or "stopped"), self.name, pipeline
                        )
            pipeline.execute()

    def _beat(self) -> None:
        """Tell RQ what lives here, and learn whether it suspends us. Raises RedisError."""
        if self.pubsub_thread is None:
            self.subscribe()
        with self.connection.pipeline() as pipeline:
            worker_registration.register(self, pipeline)  # again: after FLUSHALL nothing is left
            self.heartbeat(pipeline=pipeline)
            pipeline.hset(self.key, mapping=self.serialize())
            self.set_state("busy" if self._running else "idle", pipeline)
            for execution in self._running.values():
                if (utils.now() - execution.last_heartbeat).seconds >= LEASE / 6:
                    execution.heartbeat(self.queues[0].started_job_registry, LEASE, pipeline)
            self._suspended = bool(pipeline.exists(suspension.WORKERS_SUSPENDED).execute()[-1])

    def handle_payload(self, message: Any) -> None:
        """Obey `rq`: shutdown ends `consume` (RQ's way kills the process on Windows), stop ends a delivery for good."""
        if (payload := command.parse_payload(message))["command"] == "shutdown":
            self._stopping.set()
        for future, execution in list(self._running.items()):
            if execution.job_id == payload.get("job_id"):
                future.cancel()

    def _set_ip_address(self, connection: Redis) -> None:
        self.ip_address = "unknown"
        with suppress(RedisError):  # a worker may be made while Redis is away
            super()._set_ip_address(connection)

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:
        self.log.debug(
            "rq.commands: %r", exc
        )  # Redis is away, of which the worker tells; or a bad command
        time.sleep(PAUSE)


class RQQueue(JobQueue):
    """Rings through RQ jobs, on one RQ queue a lane."""

    def __init__(self, url: str) -> None:
        url = url.removeprefix("rq+")
        self.log_url = url
        self._shown = without_password(url)
        self._redis = Redis.from_url(
            brokers.usable(url), retry=retry.Retry(backoff.NoBackoff(), 1)
        )  # once, for an old connection may be dead
        self._queues = {
            lane: Queue(QUEUE_PREFIX + lane, connection=self._redis, job_class=RingJob)
            for lane in LANES
        }
        self._workers: list[ConcurrentWorker] = []

    async def ring(self, rings: Sequence[Ring]) -> None:
        await self._call(self._ring, rings)

    async def depth(self, lane: str) -> int:
        return int(await self._call(self._redis.llen, self._queues[lane].key))

    async def work(self, handle: Handle, lane: str, concurrency: int) -> None:
        options = {"connection": self._redis, "worker_ttl": 30, "maintenance_interval": LEASE}
        hired = await asyncio.to_thread(ConcurrentWorker, [QUEUE_PREFIX + lane], **options)
        hired.log.setLevel("WARNING")  # RQ tells of each step
        self._workers.append(hired)
        await hired.consume(handle, concurrency)

    async def check(self) -> Sequence[str]:
        try:
            return await asyncio.to_thread(self._check)
        except (RedisError, OSError) as error:
            raise brokers.failure(self._shown, error) from error

    async def claim_database(self, database: str) -> None:
        await self._call(self._redis.setnx, "ragqueue:database", database)
        found = (await self._call(self._redis.get, "ragqueue:database") or b"").decode(
            errors="replace"
        )
        if found != database:
            problem = f"the broker {self._shown} belongs to database {found!r}, but this process uses {database!r}"
            raise ConfigError(
                f"{problem}: give both the same RAGQUEUE_DATA, or this one another REDIS_URL",
                code="database_mismatch",
            )

    async def close(self) -> None:
        while self._workers:
            await asyncio.to_thread(self._workers.pop().retire)
        await asyncio.to_thread(self._redis.close)

    async def _call(self, function: Callable[..., Any], *args: object) -> Any:
        try:
            return await asyncio.to_thread(function, *args)
        except (RedisError, OSError) as error:
            raise Unavailable(
                f"the broker {self._shown} failed: {brokers.reason(error)}"
            ) from error

    def _check(self) -> list[str]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for command in (*CHECK, *questions()):
                pipeline.execute_command(*command)
            answers = pipeline.execute(raise_on_error=False)
        told = brokers.judge(self._shown, CHECK, answers[: len(CHECK)])
        return brokers.notes(self._shown, told) + failed_notes(answers[len(CHECK) :], self._redis)

    def refuse_other(self, connection: Redis) -> None:
        """Make sure that a launcher's connection leads where ours does. Raises ConfigError."""
        brokers.refuse_other(self._redis, connection, self._shown)

    def _ring(self, rings: Sequence[Ring]) -> None:
        # Each ring at the front goes before the last one: in reverse they keep their order.
        ordered = [ring for ring in rings if not ring.front] + [
            ring for ring in reversed(rings) if ring.front
        ]
        for first in range(0, len(ordered), BATCH):
            with self._redis.pipeline() as pipeline:
                for ring in ordered[first : first + BATCH]:
                    # A new id each time, for a doubled ring must not replace the first; no timeout, for our deadline ends a job.
                    self._queues[ring.lane].enqueue_call(
                        HANDLER,
                        list(ring),
                        timeout=-1,
                        result_ttl=0,
                        failure_ttl=FAILED_FOR,
                        at_front=ring.front,
                        job_id=f"{ring.job_id}-{uuid.uuid4().hex[:12]}",
                        retry=job.Retry(max=RETRIES),
                        pipeline=pipeline,
                    )
                pipeline.execute()


def open(given: Given) -> RQQueue:
    """Return the queue on the Redis of a URL, `rq+redis://...`. Raises ConfigError."""
    return brokers.opened(RQQueue, given.url.removeprefix("rq+"))

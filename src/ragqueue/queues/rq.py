"""RQ on Redis as the doorbell: an RQ queue a lane, an RQ job a ring, and a true RQ worker that runs hundreds of them on one asyncio loop."""

import asyncio
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue, command, executions, job, serializers, suspension, timeouts, utils, worker, worker_registration

from ragqueue.errors import ConfigError, InvalidRequest, Unavailable
from ragqueue.queues.base import Handle, JobQueue
from ragqueue.types import LANES, Ring

HANDLER = "ragqueue.entrypoints.rq.handle"  # the only function that an RQ job of ours can name
QUEUE_PREFIX = "ragqueue-"
RETRIES = 3  # deliveries again after a handle that could not record its outcome
FAILED_FOR = 3600  # seconds that `rq info` shows a failed delivery
TAKE_WAIT = 0.25  # seconds of one blocking pop: bounds how long a stop takes
LEASE = 90  # seconds until RQ calls an execution abandoned and rings again; renewed when a sixth of it is over
BEAT = 1.0  # seconds between two signs of life
TAKEN = 100  # rings taken at once, at most
PAUSE = 1.0  # seconds between tries while Redis is away
BATCH = 1000  # rings sent in one transaction
# What is read back of an RQ job: none of the other fields (callbacks, webhooks, dependents) can reach code or hosts.
_FIELDS = b"""created_at data description ended_at enqueued_at failure_ttl last_heartbeat origin result_ttl retries_left
    started_at status timeout worker_name""".split()

logger = logging.getLogger(__name__)


def ring_of(args: Sequence[object]) -> Ring:
    """Return the ring that travelled as the arguments of an RQ job. Raises InvalidRequest for anything else."""
    match args:
        case [str(job_id), str(lane), str(database), int() | float() as stamp, bool(front)] if lane in LANES and math.isfinite(stamp):
            return Ring(job_id, lane, database, stamp, front)
    raise InvalidRequest(f"these arguments are no ring: {args!r:.200}")


class RingJob(job.Job):  # type: ignore[misc]
    """An RQ job that can be nothing but a ring: JSON only, one function, no callbacks, webhooks or dependents."""

    def __init__(self, id: str | None = None, connection: Redis | None = None, serializer: object = None) -> None:
        super().__init__(id, connection)
        self.serializer = serializers.JSONSerializer  # whatever the launcher says; as an argument it costs RQ 0.1 ms to check

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        super().restore({field: raw_data[field] for field in _FIELDS if field in raw_data})
        self.retries_left: int = min(self.retries_left or 0, RETRIES)

    def ring(self) -> Ring:
        """Return the ring. Raises InvalidRequest, and RQ's DeserializationError."""
        if self.func_name != HANDLER or self.instance is not None or self.kwargs:
            raise InvalidRequest(f"an RQ job named {self.func_name!r:.200} was refused: only {HANDLER} is run")
        return ring_of(self.args)

    @property
    def func(self) -> Any:
        self.ring()
        return utils.import_attribute(HANDLER)


class ConcurrentWorker(worker.BaseWorker):  # type: ignore[misc]
    """A true RQ worker that runs many jobs of one queue on one loop; a thread keeps RQ's books, for many jobs in one round trip."""

    death_penalty_class = timeouts.TimerDeathPenalty  # SIGALRM is for the main thread, and not for Windows
    connection_timeout = 10  # seconds that a command may take; RQ's own is the life time of a worker

    def __init__(self, queues: Sequence[Any], name: str | None = None, **options: Any) -> None:
        names = [getattr(queue, "name", queue) for queue in queues]
        super().__init__(names, name, **{**options, "job_class": RingJob, "serializer": serializers.JSONSerializer})
        self._stopping = threading.Event()
        self._running: dict[asyncio.Future[None], executions.Execution] = {}
        self._ended: SimpleQueue[asyncio.Future[None]] = SimpleQueue()
        self._backlog = 0  # rings that waited when the last ones were taken
        self._suspended = False

    async def consume(self, handle: Handle, concurrency: int, *, burst: bool = False) -> None:
        """Call `handle` for each ring until cancelled or stopped; burst: until none waits and all are handled."""
        loop = asyncio.get_running_loop()

        def start(begun: Mapping[executions.Execution, Ring]) -> None:
            for execution, ring in begun.items():
                task = asyncio.ensure_future(handle(ring))
                self._running[task] = execution
                task.add_done_callback(self._ended.put)

        with ThreadPoolExecutor(1, "rq") as thread:
            working = loop.run_in_executor(thread, self._work, lambda begun: loop.call_soon_threadsafe(start, begun), concurrency, burst)
            try:
                await asyncio.shield(working)
            finally:
                self._stopping.set()
                await working

    def retire(self) -> None:
        """Sign off from RQ; deliveries that still run are not waited for."""
        self._stopping.set()
        self.pubsub_thread.stop()
        with suppress(RedisError):
            self._keep_books(0)
            self.teardown()

    def _work(self, start: Callable[[Mapping[Any, Ring]], object], concurrency: int, burst: bool) -> None:
        away, beaten = False, time.monotonic()
        while not self._stopping.is_set():
            try:
                self._keep_books(TAKE_WAIT if self._suspended or len(self.executions) >= concurrency else 0)
                free = 0 if self._suspended else concurrency - len(self.executions)
                if free and (taken := self._take(free)):
                    start(self._begin(taken))
                elif burst and free and not self.executions:
                    return
                if time.monotonic() - beaten >= BEAT:
                    beaten = time.monotonic()
                    self._beat()
                away = False
            except Exception as error:  # what stands in Redis can be anything; what was taken rings again: RQ finds it, or our reconcile
                if not away:
                    self.log.warning("rq.unavailable: waiting for Redis: %r", error, exc_info=not isinstance(error, RedisError))
                away = True
                self._stopping.wait(PAUSE)

    def _take(self, free: int) -> list[bytes]:
        key, passed = self.queues[0].key, self.queues[0].intermediate_queue_key
        if (first := self.connection.blmove(key, passed, TAKE_WAIT)) is None:
            return []
        with self.connection.pipeline() as pipeline:
            if self._stopping.is_set():  # in front of the queue again
                pipeline.lrem(passed, 1, first).lpush(key, first).execute()
                return []
            for _ in range(min(free, self._backlog, TAKEN) - 1):
                pipeline.lmove(key, passed)
            return [first, *(raw for raw in pipeline.execute() if raw is not None)]

    def _begin(self, taken: Sequence[bytes]) -> dict[executions.Execution, Ring]:
        """Write into RQ's books that these jobs run now; what is no ring is dropped. Raises RedisError."""
        queue, begun = self.queues[0], {}
        with self.connection.pipeline(transaction=False) as pipeline:
            for raw in taken:
                pipeline.hgetall(RingJob.key_for(raw.decode(errors="replace")))
            pipeline.llen(queue.key)
            *found, self._backlog = pipeline.execute(raise_on_error=False)
        with self.connection.pipeline() as pipeline:
            for raw, data in zip(taken, found, strict=True):
                pipeline.lrem(queue.intermediate_queue_key, 1, raw)
                try:
                    rq_job = RingJob(raw.decode(), self.connection)
                    rq_job.restore(data)
                    ring = rq_job.ring()
                except Exception:  # its ring is lost; or it is doubled and done; or it is no ring at all
                    self.log.warning("rq.dropped: %.100r", raw, exc_info=bool(data))
                    continue
                rq_job.origin = queue.name
                begun[executions.Execution.create(rq_job, LEASE, pipeline, self.name)] = ring
                rq_job.prepare_for_execution(self.name, pipeline)
                pipeline.persist(rq_job.key)
            pipeline.execute()
        self.executions.update((execution.id, execution) for execution in begun)
        return begun

    def _keep_books(self, wait: float) -> None:
        """Write into RQ's books what ended, all that piled up at once: for jobs without callbacks and results. Raises RedisError."""
        with self.connection.pipeline() as pipeline:
            with suppress(Empty):
                while task := self._ended.get(timeout=0 if len(pipeline) else wait):
                    execution = self.executions.pop(self._running.pop(task).id)
                    rq_job, error = execution.job, None if task.cancelled() else task.exception()
                    execution.delete(rq_job, pipeline)
                    self.increment_total_working_time(utils.now() - execution.created_at, pipeline)
                    if not task.cancelled() and error is None:
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
            pipeline.execute()

    def _beat(self) -> None:
        """Tell RQ what lives here, learn whether it suspends us, and do its maintenance when that is due. Raises RedisError."""
        with self.connection.pipeline() as pipeline:
            worker_registration.register(self, pipeline)  # again: after FLUSHALL nothing is left
            pipeline.hset(self.key, mapping=self.serialize())
            self.set_state("busy" if self.executions else "idle", pipeline)
            self.heartbeat(pipeline=pipeline)
            for execution in self.executions.values():
                if (utils.now() - execution.last_heartbeat).seconds >= LEASE / 6:
                    execution.heartbeat(self.queues[0].started_job_registry, LEASE, pipeline)
            pipeline.exists(suspension.WORKERS_SUSPENDED)
            self._suspended = bool(pipeline.execute()[-1])
        if self.should_run_maintenance_tasks:  # not all of RQ's maintenance: that may fork a scheduler
            self.clean_registries()

    def handle_payload(self, message: Any) -> None:
        """Obey `rq`: shutdown ends `consume` (RQ's way kills the process on Windows), stop ends a delivery for good."""
        if (payload := command.parse_payload(message))["command"] == "shutdown":
            self._stopping.set()
        for task, execution in list(self._running.items()):
            if execution.job_id == payload.get("job_id"):
                task.get_loop().call_soon_threadsafe(task.cancel)

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:
        self.log.debug("rq.commands: %r", exc)  # Redis is away, of which the worker tells; or a bad command
        time.sleep(PAUSE)


class RQQueue(JobQueue):
    """Rings through RQ jobs, on one RQ queue a lane."""

    def __init__(self, url: str) -> None:
        url = url.removeprefix("rq+")
        parts = urlsplit(url)
        self._shown = f"{parts.scheme}://{parts.hostname or ''}:{parts.port or 6379}{parts.path}"  # no password
        self._redis = Redis.from_url(url, retry=Retry(NoBackoff(), 1))  # once, for an old connection may be dead
        self._workers: list[ConcurrentWorker] = []

    async def ring(self, rings: Sequence[Ring]) -> None:
        for first in range(0, len(rings), BATCH):
            await self._call(self._ring, rings[first : first + BATCH])

    async def depth(self, lane: str) -> int:
        return int(await self._call(self._redis.llen, Queue.redis_queue_namespace_prefix + QUEUE_PREFIX + lane))

    async def work(self, handle: Handle, lane: str, concurrency: int) -> None:
        while True:
            try:
                hired: ConcurrentWorker = await self._call(self._hire, lane)
                return await hired.consume(handle, concurrency)
            except Unavailable as error:
                logger.warning("rq.unavailable: %s", error)
                await asyncio.sleep(PAUSE)

    async def claim_database(self, database: str) -> None:
        await self._call(self._redis.setnx, "ragqueue:database", database)
        found = (await self._call(self._redis.get, "ragqueue:database") or b"").decode(errors="replace")
        if found != database:
            problem = f"the broker {self._shown} belongs to database {found!r}, but this process uses {database!r}"
            raise ConfigError(f"{problem}: give both the same RAGQUEUE_DATA, or this one another REDIS_URL", code="database_mismatch")

    async def close(self) -> None:
        while self._workers:
            await asyncio.to_thread(self._workers.pop().retire)
        await asyncio.to_thread(self._redis.close)

    async def _call(self, function: Callable[..., Any], *args: object) -> Any:
        try:
            return await asyncio.to_thread(function, *args)
        except (RedisError, OSError) as error:
            raise Unavailable(f"the broker {self._shown} failed: {error}") from error

    def _ring(self, rings: Sequence[Ring]) -> None:
        # Each ring at the front goes before the last one: in reverse they keep their order.
        ordered = [ring for ring in rings if not ring.front] + [ring for ring in reversed(rings) if ring.front]
        with self._redis.pipeline() as pipeline:
            for lane in {ring.lane for ring in rings}:
                queue = Queue(QUEUE_PREFIX + lane, connection=self._redis, job_class=RingJob, serializer=serializers.JSONSerializer)
                # A new id each time, for a doubled ring must not replace the first; no timeout, for our deadline ends a job.
                rq_jobs = [
                    Queue.prepare_data(
                        HANDLER, list(ring), timeout=-1, result_ttl=0, failure_ttl=FAILED_FOR, at_front=ring.front,
                        job_id=f"{ring.job_id}-{uuid.uuid4().hex[:12]}", retry=job.Retry(max=RETRIES),
                    )
                    for ring in ordered if ring.lane == lane
                ]  # fmt: skip
                queue.enqueue_many(rq_jobs, pipeline)
            pipeline.execute()

    def _hire(self, lane: str) -> ConcurrentWorker:
        hired = ConcurrentWorker([QUEUE_PREFIX + lane], connection=self._redis, worker_ttl=30, maintenance_interval=LEASE)
        hired.log.setLevel(logging.WARNING)  # RQ tells of each step
        hired.register_birth()
        hired.subscribe()
        self._workers.append(hired)
        return hired

"""RQ on Redis: our worker runs hundreds of RQ jobs on one asyncio loop and stays a true RQ worker."""

import asyncio
import logging
import math
import os
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry as RedisRetry
from rq import Queue, Retry, worker_registration
from rq.command import parse_payload
from rq.exceptions import DeserializationError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED
from rq.timeouts import TimerDeathPenalty
from rq.utils import import_attribute
from rq.version import VERSION
from rq.worker import BaseWorker, WorkerStatus

from ragqueue.errors import ConfigError, DatabaseMismatch, InvalidRequest, Unavailable
from ragqueue.queues.base import Handle, JobQueue
from ragqueue.types import LANES, Ring

HANDLER = "ragqueue.entrypoints.rq.handle"  # the only function that an RQ job of ours can name
QUEUE_PREFIX = "ragqueue-"
DATABASE_KEY = "ragqueue:database"
RETRIES = 3  # deliveries again after a handle that could not record its outcome
FAILED_FOR = 3600  # seconds that `rq info` shows a failed delivery
TAKE_WAIT = 0.25  # seconds of one blocking pop: bounds how long a stop takes
BEAT = 1.0  # seconds between beats of a worker; every 15th renews its executions
LEASE = 60  # seconds until RQ calls an execution abandoned and rings again; our own lease is faster
LONGEST_PAUSE = 1.0  # seconds between tries while Redis is away
BATCH = 1000  # rings sent in one transaction

# What is read back of an RQ job: none of the other fields (callbacks, webhooks, dependents) can reach code or hosts.
_FIELDS = frozenset(
    b"created_at data description ended_at enqueued_at failure_ttl last_heartbeat origin result_ttl retries_left "
    b"started_at status timeout worker_name".split()
)
_PRIVATE = ((Queue, "_fetch_dequeued_job"), (BaseWorker, "_finalize_success"), (BaseWorker, "_finalize_failure"))

logger = logging.getLogger(__name__)


def check_rq() -> None:
    """Raise ConfigError when the installed RQ lacks a private name that our worker needs."""
    for owner, name in _PRIVATE:
        if not hasattr(owner, name):
            raise ConfigError(f"RQ {VERSION} has no {owner.__name__}.{name}, which our worker needs: use SimpleWorker or rq 3.0.x")


def ring_of(args: Sequence[object]) -> Ring:
    """Return the ring that travelled as the arguments of an RQ job. Raises InvalidRequest for anything else."""
    match args:
        case [str(job_id), str(lane), str(database), int() | float() as stamp, bool(front)] if lane in LANES and math.isfinite(stamp):
            return Ring(job_id, lane, database, stamp, front)
    raise InvalidRequest(f"these arguments are no ring: {args!r:.200}")


class RingJob(Job):  # type: ignore[misc]
    """An RQ job that can be nothing but a ring: JSON only, one function, no callbacks, webhooks or dependents."""

    def __init__(self, id: str | None = None, connection: Redis | None = None, serializer: object = None) -> None:
        super().__init__(id, connection, JSONSerializer)  # whatever the launcher says

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        super().restore({field: value for field, value in raw_data.items() if field in _FIELDS})
        self.retries_left = min(self.retries_left or 0, RETRIES)

    def ring(self) -> Ring:
        """Return the ring. Raises InvalidRequest, DeserializationError."""
        if self.func_name != HANDLER or self.instance is not None or self.kwargs:
            raise InvalidRequest(f"an RQ job named {self.func_name!r:.200} was refused: only {HANDLER} is run")
        return ring_of(self.args)

    @property
    def func(self) -> Callable[..., None]:
        self.ring()
        return import_attribute(HANDLER)  # type: ignore[no-any-return]

    def cleanup(self, ttl: int | None = None, pipeline: Any = None, remove_from_queue: bool = True) -> None:
        if ttl != 0:
            super().cleanup(ttl, pipeline, remove_from_queue)
        else:  # RQ's own way asks registries that a ring is never in: seven round trips
            (self.connection if pipeline is None else pipeline).delete(self.key)


class ConcurrentWorker(BaseWorker):  # type: ignore[misc]
    """A true RQ worker that runs many jobs of one queue on one asyncio loop; RQ's sync bookkeeping runs in threads."""

    death_penalty_class = TimerDeathPenalty  # SIGALRM is for the main thread, and not for Windows
    connection_timeout = 10  # seconds that a command may take; RQ's own is the life time of a worker

    def __init__(self, queues: Sequence[Any], name: str | None = None, **options: Any) -> None:
        check_rq()
        names = [getattr(queue, "name", queue) for queue in queues]
        super().__init__(names, name, **{**options, "job_class": RingJob, "serializer": JSONSerializer})
        self._stopping, self._retired = threading.Event(), threading.Event()
        self._threads = ThreadPoolExecutor(5, "rq")  # one waits for rings, the others keep the books
        self._beating = threading.Thread(target=self._beat, name="rq-beat", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: dict[str, Callable[[], object]] = {}  # by execution: how to cancel it
        self._cancelled: set[str] = set()  # executions that an operator stopped
        self._cancel_lock = threading.Lock()
        self._suspended = self._away = False

    async def consume(self, handle: Handle, concurrency: int, *, burst: bool = False) -> None:
        """Call `handle` for each ring until cancelled or stopped (burst: until none waits)."""
        self._beating.start()
        slots = asyncio.Semaphore(concurrency)
        while await slots.acquire() and (raw := await self._next(burst)) is not None:
            task = asyncio.create_task(self._deliver(raw, handle))
            self._tasks.add(task)
            task.add_done_callback(lambda done: (self._tasks.discard(done), slots.release(), done.cancelled() or done.exception()))

    async def drain(self) -> None:
        """Wait for the deliveries that still run."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def stop(self) -> None:
        """Take no more rings."""
        self._stopping.set()

    def retire(self) -> None:
        """Sign off from RQ; deliveries that still run are not waited for."""
        self._stopping.set()
        if self._retired.is_set():
            return
        self._retired.set()
        if self._beating.is_alive():
            self._beating.join()
        if self.pubsub_thread is not None:
            self.pubsub_thread.stop()
        with suppress(RedisError):
            self.teardown()
        self._threads.shutdown(wait=False)

    async def _next(self, burst: bool) -> bytes | None:
        taking = self._in_thread(self._take, burst)
        try:
            return await asyncio.shield(taking)  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            self._stopping.set()
            if (raw := await taking) is not None:
                await self._in_thread(self._forget, raw, True)
            raise

    async def _deliver(self, raw: bytes, handle: Handle) -> None:
        begun = await self._in_thread(self._begin, raw)
        if begun is None:
            return
        job, execution, ring = begun
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        self._running[execution.id] = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            await handle(ring)
        finally:
            self._running.pop(execution.id)
            await self._in_thread(self._end, job, execution, sys.exc_info())

    def _in_thread(self, function: Callable[..., Any], *args: object) -> "asyncio.Future[Any]":
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    def _take(self, burst: bool) -> bytes | None:
        key, passed = self.queues[0].key, self.queues[0].intermediate_queue_key
        pause = 0.05
        while not self._stopping.is_set():
            if self._suspended:
                self._stopping.wait(TAKE_WAIT)
                continue
            try:
                raw = self.connection.lmove(key, passed) if burst else self.connection.blmove(key, passed, TAKE_WAIT)
            except RedisError as error:
                self._notice(error)
                self._stopping.wait(pause)
                pause = min(LONGEST_PAUSE, pause * 2)
                continue
            self._notice(None)
            pause = 0.05
            if raw is not None or burst:
                return raw  # type: ignore[no-any-return]
        return None

    def _begin(self, raw: bytes) -> tuple[RingJob, Any, Ring] | None:
        queue = self.queues[0]
        try:
            found = Queue._fetch_dequeued_job(self.connection, queue.key, raw.decode(), RingJob, JSONSerializer)
            if found is None:  # a doubled id, whose job is done
                return self._forget(raw)
            job = found[0]
            job.origin = queue.name
            execution = self.prepare_execution(job)
            self.prepare_job_execution(job, remove_from_intermediate_queue=True)
        except Exception as error:  # either Redis went away, then the ring counts as lost, or this is no RQ job
            self.log.warning("rq.dropped: %r", raw[:100], exc_info=True)
            return self._forget(raw)
        try:
            return job, execution, job.ring()
        except (InvalidRequest, DeserializationError):
            job.retries_left, job.failure_ttl = 0, FAILED_FOR
            self._end(job, execution, sys.exc_info())
            return None

    def _forget(self, raw: bytes, back: bool = False) -> None:
        with suppress(RedisError), self.connection.pipeline() as pipeline:
            pipeline.lrem(self.queues[0].intermediate_queue_key, 1, raw)
            if back:
                pipeline.lpush(self.queues[0].key, raw)
            pipeline.execute()

    def _end(self, job: RingJob, execution: Any, exc_info: Any) -> None:
        try:
            if exc_info[1] is None:
                self._finalize_success(job, self.queues[0], execution, None)
            else:
                with self._cancel_lock:  # RQ has room for one job that was stopped on purpose
                    self._stopped_job_id = job.id if execution.id in self._cancelled else None
                    self._finalize_failure(job, self.queues[0], execution, exc_info)
        except RedisError as error:  # the records hold the outcome; RQ finds an abandoned execution, and rings once more
            self._notice(error)
        finally:
            self.executions.pop(execution.id, None)  # else the beat would keep it started for ever
            self._cancelled.discard(execution.id)

    def _notice(self, error: Exception | None) -> None:
        if (error is not None) != self._away:
            self._away = error is not None
            self.log.warning("rq.unavailable: waiting for Redis: %s", error) if error else self.log.warning("rq.available: Redis is back")

    def _beat(self) -> None:
        beats = 0
        while not self._retired.wait(BEAT):
            beats += 1
            try:
                self._renew(list(self.executions.values()) if beats % 15 == 0 else [])
                if self.should_run_maintenance_tasks:  # not RQ's whole maintenance: that may fork a scheduler
                    self.clean_registries()
            except RedisError as error:
                self._notice(error)
            except Exception:
                self.log.warning("rq.beat_failed", exc_info=True)

    def _renew(self, executions: list[Any]) -> None:
        with self.connection.pipeline() as pipeline:
            self.heartbeat(pipeline=pipeline)
            pipeline.exists(WORKERS_SUSPENDED)
            self.set_state(WorkerStatus.BUSY if self.executions else WorkerStatus.IDLE, pipeline)
            for execution in executions:
                execution.heartbeat(self.queues[0].started_job_registry, LEASE, pipeline)
            new, _, _, suspended, *_ = pipeline.execute()
            if new:  # the worker's hash was gone: FLUSHALL, or a Redis without persistence came back
                pipeline.hset(self.key, mapping=self.serialize())
                worker_registration.register(self, pipeline)
                pipeline.execute()
        self._suspended = bool(suspended)

    def handle_payload(self, message: Any) -> None:
        """Obey a command of `rq`: shutdown drains (RQ's own way kills the process on Windows), stop cancels a delivery."""
        try:
            payload = parse_payload(message)
            command, job_id, execution_id = payload["command"], payload.get("job_id"), payload.get("execution_id")
        except (ValueError, TypeError, KeyError, AttributeError):
            return self.log.warning("rq.bad_command: %r", message)  # type: ignore[no-any-return]
        if command == "shutdown":
            self.stop()
        for execution in list(self.executions.values()) if command in ("stop-job", "stop-execution") else []:
            if execution.job_id == job_id and execution_id in (None, execution.id) and execution.id in self._running:
                self._cancelled.add(execution.id)
                self._running[execution.id]()

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        return LEASE

    def procline(self, message: str) -> None:
        """Leave the title of the process alone: it runs many jobs."""

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:
        threading.Event().wait(LONGEST_PAUSE)  # the beat says that Redis is away


class RQQueue(JobQueue):
    """Rings through RQ jobs on one RQ queue a lane."""

    def __init__(self, url: str) -> None:
        check_rq()
        url = url.removeprefix("rq+")
        parts = urlsplit(url)
        self._shown = f"{parts.scheme}://{parts.hostname or ''}:{parts.port or 6379}{parts.path}"  # no password
        self._redis = Redis.from_url(url, retry=RedisRetry(NoBackoff(), 1))  # one: a connection may be stale
        self._workers: list[ConcurrentWorker] = []

    async def ring(self, rings: Sequence[Ring]) -> None:
        for first in range(0, len(rings), BATCH):
            await self._run(self._ring, rings[first : first + BATCH])

    async def depth(self, lane: str) -> int:
        return int(await self._run(self._redis.llen, Queue.redis_queue_namespace_prefix + QUEUE_PREFIX + lane))

    async def work(self, handle: Handle, lane: str, concurrency: int) -> None:
        pause = 0.05
        while True:
            try:
                worker = await self._run(self._enlist, lane)
                break
            except Unavailable as error:
                logger.warning("rq.unavailable: %s", error)
                await asyncio.sleep(pause := min(LONGEST_PAUSE, pause * 2))
        await worker.consume(handle, concurrency)

    async def claim_database(self, database: str) -> None:
        await self._run(self._redis.setnx, DATABASE_KEY, database)
        found = (await self._run(self._redis.get, DATABASE_KEY) or b"").decode(errors="replace")
        if found != database:
            raise DatabaseMismatch(
                f"the broker {self._shown} belongs to database {found!r}, but this process uses {database!r}: "
                "set RAGQUEUE_DATA (or the records' URL) to the same database everywhere, or REDIS_URL to another broker"
            )

    async def close(self) -> None:
        for worker in self._workers:
            await asyncio.to_thread(worker.retire)
        self._workers.clear()
        await asyncio.to_thread(self._redis.close)

    async def _run(self, function: Callable[..., Any], *args: object) -> Any:
        try:
            return await asyncio.to_thread(function, *args)
        except (RedisError, OSError) as error:
            raise Unavailable(f"the broker {self._shown} failed: {error}") from error

    def _ring(self, rings: Sequence[Ring]) -> None:
        with self._redis.pipeline() as pipeline:
            for lane in {ring.lane for ring in rings}:
                # Each ring at the front goes before the last one: reversed, they keep their order.
                mine = [ring for ring in rings if ring.lane == lane and not ring.front]
                mine += [ring for ring in reversed(rings) if ring.lane == lane and ring.front]
                queue = Queue(QUEUE_PREFIX + lane, connection=self._redis, job_class=RingJob, serializer=JSONSerializer)
                queue.enqueue_many([_rq_job(ring) for ring in mine], pipeline)
            pipeline.execute()

    def _enlist(self, lane: str) -> ConcurrentWorker:
        name = f"{lane}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        worker = ConcurrentWorker([QUEUE_PREFIX + lane], name, connection=self._redis, worker_ttl=30, maintenance_interval=LEASE)
        worker.log = logger.getChild("worker")
        worker.log.setLevel(logging.WARNING)  # RQ tells of each job
        self._workers.append(worker)
        worker.register_birth()
        worker.subscribe()
        return worker


def _rq_job(ring: Ring) -> Any:
    """Return what RQ enqueues; its id is new each time, for a doubled ring must not replace the first."""
    return Queue.prepare_data(
        HANDLER,
        [ring.job_id, ring.lane, ring.database, ring.stamp, ring.front],
        timeout=-1,  # our deadline ends a job
        result_ttl=0,
        failure_ttl=FAILED_FOR,
        job_id=f"{ring.job_id}-{uuid.uuid4().hex[:12]}",
        at_front=ring.front,
        retry=Retry(max=RETRIES),
    )

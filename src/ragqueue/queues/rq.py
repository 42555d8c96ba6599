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
from redis.retry import Retry
from rq import Queue, command, exceptions, job, serializers, suspension, timeouts, utils, version, worker, worker_registration

from ragqueue.errors import ConfigError, DatabaseMismatch, InvalidRequest, Unavailable
from ragqueue.queues.base import Handle, JobQueue
from ragqueue.types import LANES, Ring

HANDLER = "ragqueue.entrypoints.rq.handle"  # the only function that an RQ job of ours can name
QUEUE_PREFIX = "ragqueue-"
RETRIES = 3  # deliveries again after a handle that could not record its outcome
FAILED_FOR = 3600  # seconds that `rq info` shows a failed delivery
TAKE_WAIT = 0.25  # seconds of one blocking pop: bounds how long a stop takes
LEASE = 90  # seconds until RQ calls an execution abandoned and rings again; renewed at every 15th beat of a second
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
        super().__init__(id, connection, serializers.JSONSerializer)  # whatever the launcher says

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

    def cleanup(self, ttl: int | None = None, pipeline: Any = None, remove_from_queue: bool = True) -> None:
        if ttl != 0:
            return super().cleanup(ttl, pipeline, remove_from_queue)  # type: ignore[no-any-return]
        (self.connection if pipeline is None else pipeline).delete(self.key)  # RQ's own way costs seven round trips


class ConcurrentWorker(worker.BaseWorker):  # type: ignore[misc]
    """A true RQ worker that runs many jobs of one queue on one asyncio loop; RQ's sync bookkeeping runs in threads."""

    death_penalty_class = timeouts.TimerDeathPenalty  # SIGALRM is for the main thread, and not for Windows
    connection_timeout = 10  # seconds that a command may take; RQ's own is the life time of a worker

    def __init__(self, queues: Sequence[Any], name: str | None = None, **options: Any) -> None:
        for private in ("_finalize_success", "_finalize_failure"):
            if not hasattr(worker.BaseWorker, private):
                raise ConfigError(f"RQ {version.VERSION} has no {private}, which our worker needs: use SimpleWorker or rq 3.0.x")
        names = [getattr(queue, "name", queue) for queue in queues]
        super().__init__(names, name, **{**options, "job_class": RingJob, "serializer": serializers.JSONSerializer})
        self._stopping, self._retired = threading.Event(), threading.Event()
        self._threads = ThreadPoolExecutor(5, "rq")  # one waits for rings, the others keep the books
        self._beating = threading.Thread(target=self._beat, name="rq-beat", daemon=True)
        self._running: dict[str, tuple[RingJob, Callable[[], object]]] = {}  # by execution: its job, and how to cancel it
        self._suspended = self._away = False

    async def consume(self, handle: Handle, concurrency: int, *, burst: bool = False) -> None:
        """Call `handle` for each ring until cancelled or stopped; burst: until none waits and all are handled."""
        loop = asyncio.get_running_loop()
        slots = threading.Semaphore(concurrency)

        def start(raw: bytes) -> None:
            asyncio.run_coroutine_threadsafe(self._deliver(raw, handle, slots), loop)

        self._beating.start()
        taking = loop.run_in_executor(self._threads, self._take, slots, start, burst)
        try:
            await asyncio.shield(taking)
        finally:
            self._stopping.set()
            await taking
        for _ in range(concurrency if burst else 0):
            await loop.run_in_executor(self._threads, slots.acquire)

    def retire(self) -> None:
        """Take no more and sign off from RQ; deliveries that still run are not waited for."""
        self._stopping.set()
        self._retired.set()
        if self._beating.is_alive():
            self._beating.join()
        if self.pubsub_thread is not None:
            self.pubsub_thread.stop()
        with suppress(RedisError):
            self.teardown()
        self._threads.shutdown(wait=False)

    def _take(self, slots: threading.Semaphore, start: Callable[[bytes], None], burst: bool) -> None:
        key, passed = self.queues[0].key, self.queues[0].intermediate_queue_key
        while not self._stopping.is_set():
            if self._suspended or not slots.acquire(timeout=TAKE_WAIT):
                self._stopping.wait(TAKE_WAIT if self._suspended else 0)
                continue
            raw = None
            try:
                raw = self.connection.lmove(key, passed) if burst else self.connection.blmove(key, passed, TAKE_WAIT)
                self._notice(None)
            except RedisError as error:
                self._notice(error)
                self._stopping.wait(PAUSE)
            if raw is None:
                slots.release()
                if burst:
                    return
            elif self._stopping.is_set():
                self._forget(raw, back=True)
            else:
                start(raw)

    async def _deliver(self, raw: bytes, handle: Handle, slots: threading.Semaphore) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            begun = await loop.run_in_executor(self._threads, self._begin, raw)
            if begun is None or task is None:
                return
            rq_job, execution, ring = begun
            self._running[execution.id] = rq_job, lambda: loop.call_soon_threadsafe(task.cancel)
            try:
                await handle(ring)
            finally:
                self._running.pop(execution.id)
                await loop.run_in_executor(self._threads, self._end, rq_job, execution, sys.exc_info())
        finally:
            slots.release()

    def _begin(self, raw: bytes) -> tuple[RingJob, Any, Ring] | None:
        try:
            rq_job = RingJob.fetch(raw.decode(), self.connection)
            rq_job.origin = self.queues[0].name
            execution = self.prepare_execution(rq_job)
        except Exception:  # Redis is away and the ring lost; or it is doubled and done; or it is no RQ job at all
            self.log.warning("rq.dropped: %.100r", raw, exc_info=True)
            self._forget(raw)
            return None
        try:
            self.prepare_job_execution(rq_job, remove_from_intermediate_queue=True)
            return rq_job, execution, rq_job.ring()
        except (InvalidRequest, exceptions.DeserializationError, RedisError):
            rq_job.retries_left, rq_job.failure_ttl = 0, FAILED_FOR
            self._end(rq_job, execution, sys.exc_info())
            return None

    def _forget(self, raw: bytes, *, back: bool = False) -> None:
        for execution in [execution for execution in list(self.executions.values()) if execution.job_id.encode() == raw]:
            self.executions.pop(execution.id, None)
        with suppress(RedisError), self.connection.pipeline() as pipeline:
            pipeline.lrem(self.queues[0].intermediate_queue_key, 1, raw)
            if back:
                pipeline.lpush(self.queues[0].key, raw)
            pipeline.execute()

    def _end(self, rq_job: RingJob, execution: Any, exc_info: Any) -> None:
        try:
            if exc_info[1] is None:
                self._finalize_success(rq_job, self.queues[0], execution, None)
            else:
                self._finalize_failure(rq_job, self.queues[0], execution, exc_info)
        except RedisError as error:  # the records hold the outcome; RQ finds an abandoned execution, and rings once more
            self._notice(error)
            if exc_info[1] is not None:
                self.log.warning("rq.unrecorded: job %s failed", rq_job.id, exc_info=exc_info)
        finally:
            self.executions.pop(execution.id, None)  # else the beat would keep it started for ever

    def _notice(self, error: Exception | None) -> None:
        if (error is not None) != self._away:
            self._away = error is not None
            self.log.warning("rq.unavailable: waiting for Redis: %s" if error else "rq.available: Redis is back%s", error or "")

    def _beat(self) -> None:
        beats = 0
        while not self._retired.wait(1.0):
            beats += 1
            try:
                self._renew(list(self.executions.values()) if beats % 15 == 0 else [])
                if self.should_run_maintenance_tasks:  # not all of RQ's maintenance: that may fork a scheduler
                    self.clean_registries()
            except RedisError as error:
                self._notice(error)
            except Exception:  # what stands in Redis can be anything
                self.log.warning("rq.beat_failed", exc_info=True)

    def _renew(self, executions: list[Any]) -> None:
        with self.connection.pipeline() as pipeline:
            worker_registration.register(self, pipeline)  # again: after FLUSHALL nothing is left
            pipeline.hset(self.key, mapping=self.serialize())
            self.set_state("busy" if self.executions else "idle", pipeline)
            self.heartbeat(pipeline=pipeline)
            for execution in executions:
                execution.heartbeat(self.queues[0].started_job_registry, LEASE, pipeline)
            pipeline.exists(suspension.WORKERS_SUSPENDED)
            self._suspended = bool(pipeline.execute()[-1])

    def handle_payload(self, message: Any) -> None:
        """Obey `rq`: shutdown ends `consume` (RQ's way kills the process on Windows), stop ends a delivery for good."""
        payload = command.parse_payload(message)
        if payload["command"] == "shutdown":
            self._stopping.set()
        for execution_id, (rq_job, cancel) in list(self._running.items()):
            if payload.get("job_id") == rq_job.id and payload.get("execution_id", execution_id) == execution_id:
                self._stopped_job_id, rq_job.retries_left = rq_job.id, 0
                cancel()

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:
        self.log.debug("rq.commands: %r", exc)  # Redis is away, of which the beat tells; or a bad command
        self._retired.wait(PAUSE)


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
        hired = None
        while hired is None:
            try:
                hired = await self._call(self._hire, lane)
            except Unavailable as error:
                logger.warning("rq.unavailable: %s", error)
                await asyncio.sleep(PAUSE)
        await hired.consume(handle, concurrency)

    async def claim_database(self, database: str) -> None:
        await self._call(self._redis.setnx, "ragqueue:database", database)
        found = (await self._call(self._redis.get, "ragqueue:database") or b"").decode(errors="replace")
        if found != database:
            raise DatabaseMismatch(
                f"the broker {self._shown} belongs to database {found!r}, but this process uses {database!r}: "
                "give both the same RAGQUEUE_DATA, or this one another REDIS_URL"
            )

    async def close(self) -> None:
        for hired in self._workers:
            await asyncio.to_thread(hired.retire)
        self._workers.clear()
        await asyncio.to_thread(self._redis.close)

    async def _call(self, function: Callable[..., Any], *args: object) -> Any:
        try:
            return await asyncio.to_thread(function, *args)
        except (RedisError, OSError) as error:
            raise Unavailable(f"the broker {self._shown} failed: {error}") from error

    def _ring(self, rings: Sequence[Ring]) -> None:
        with self._redis.pipeline() as pipeline:
            for lane in {ring.lane for ring in rings}:
                mine = [ring for ring in rings if ring.lane == lane and not ring.front]
                # Each ring at the front goes before the last one: in reverse they keep their order.
                mine += [ring for ring in reversed(rings) if ring.lane == lane and ring.front]
                queue = Queue(QUEUE_PREFIX + lane, connection=self._redis, job_class=RingJob, serializer=serializers.JSONSerializer)
                queue.enqueue_many([_rq_job(ring) for ring in mine], pipeline)
            pipeline.execute()

    def _hire(self, lane: str) -> ConcurrentWorker:
        name = f"{lane}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        hired = ConcurrentWorker([QUEUE_PREFIX + lane], name, connection=self._redis, worker_ttl=30, maintenance_interval=LEASE)
        hired.log = logger.getChild("worker")
        hired.log.setLevel(logging.WARNING)  # RQ tells of each job
        hired.register_birth()
        self._workers.append(hired)
        hired.subscribe()
        return hired


def _rq_job(ring: Ring) -> Any:
    """Return what RQ enqueues, under a new id each time: a doubled ring must not replace the first. Our deadline ends a job."""
    return Queue.prepare_data(
        HANDLER, [ring.job_id, ring.lane, ring.database, ring.stamp, ring.front], timeout=-1, result_ttl=0, failure_ttl=FAILED_FOR,
        job_id=f"{ring.job_id}-{uuid.uuid4().hex[:12]}", at_front=ring.front, retry=job.Retry(max=RETRIES),
    )  # fmt: skip

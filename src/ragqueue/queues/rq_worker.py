"""RQ's side of our doorbell: the RQ job that is a ring, and a true RQ worker that runs hundreds of them on one asyncio loop."""

import asyncio
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from queue import SimpleQueue
from typing import Any

from redis import Redis, RedisError
from rq import command, exceptions, executions, job, serializers, suspension, timeouts, utils, version, worker, worker_registration

from ragqueue.errors import ConfigError, InvalidRequest
from ragqueue.queues.base import Handle
from ragqueue.types import LANES, Ring

HANDLER = "ragqueue.entrypoints.rq.handle"  # the only function that an RQ job of ours can name
QUEUE_PREFIX = "ragqueue-"
RETRIES = 3  # deliveries again after a handle that could not record its outcome
FAILED_FOR = 3600  # seconds that `rq info` shows a failed delivery
TAKE_WAIT = 0.25  # seconds of one blocking pop: bounds how long a stop takes
LEASE = 90  # seconds until RQ calls an execution abandoned and rings again; renewed at every 15th beat of a second
TAKEN = 100  # rings taken at once, at most
PAUSE = 1.0  # seconds between tries while Redis is away
# What is read back of an RQ job: none of the other fields (callbacks, webhooks, dependents) can reach code or hosts.
_FIELDS = b"""created_at data description ended_at enqueued_at failure_ttl last_heartbeat origin result_ttl retries_left
    started_at status timeout worker_name""".split()


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


Delivery = tuple[RingJob, executions.Execution, Ring]
Ended = tuple[RingJob, executions.Execution, BaseException | None]


class ConcurrentWorker(worker.BaseWorker):  # type: ignore[misc]
    """A true RQ worker that runs many jobs of one queue on one asyncio loop.

    RQ's bookkeeping runs in threads, for all the rings that wait in a few round trips: one at a time it costs more than most jobs.
    """

    death_penalty_class = timeouts.TimerDeathPenalty  # SIGALRM is for the main thread, and not for Windows
    connection_timeout = 10  # seconds that a command may take; RQ's own is the life time of a worker

    def __init__(self, queues: Sequence[Any], name: str | None = None, **options: Any) -> None:
        if not hasattr(worker.BaseWorker, "_finalize_failure"):
            raise ConfigError(f"RQ {version.VERSION} has no _finalize_failure, which our worker needs: use SimpleWorker or rq 3.0.x")
        names = [getattr(queue, "name", queue) for queue in queues]
        super().__init__(names, name, **{**options, "job_class": RingJob, "serializer": serializers.JSONSerializer})
        self._stopping, self._retired = threading.Event(), threading.Event()
        self._ended: SimpleQueue[Ended | None] = SimpleQueue()
        self._taker = ThreadPoolExecutor(1, "rq-take")
        self._threads = [threading.Thread(target=target, name="rq-books", daemon=True) for target in (self._beat, self._keep_books)]
        self._running: dict[str, tuple[RingJob, Callable[[], object]]] = {}  # by execution: its job, and how to cancel it
        self._backlog = 0  # rings that waited when the last ones were taken
        self._suspended = self._away = False

    async def consume(self, handle: Handle, concurrency: int, *, burst: bool = False) -> None:
        """Call `handle` for each ring until cancelled or stopped; burst: until none waits and all are handled."""
        loop = asyncio.get_running_loop()
        slots = threading.Semaphore(concurrency)
        tasks: set[asyncio.Task[None]] = set()

        def start(deliveries: Sequence[Delivery]) -> None:
            for delivery in deliveries:
                task = loop.create_task(self._deliver(delivery, handle, slots))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        for thread in self._threads:
            thread.start()
        taking = loop.run_in_executor(self._taker, self._take, slots, lambda found: loop.call_soon_threadsafe(start, found), burst)
        try:
            await asyncio.shield(taking)
        finally:
            self._stopping.set()
            await taking
        while burst and tasks:
            await asyncio.wait(tasks)

    def retire(self) -> None:
        """Take no more and sign off from RQ; deliveries that still run are not waited for."""
        self._stopping.set()
        self._retired.set()
        self._ended.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._taker.shutdown(wait=False)
        if self.pubsub_thread is not None:
            self.pubsub_thread.stop()
        with suppress(RedisError):
            self.teardown()

    def _take(self, slots: threading.Semaphore, start: Callable[[Sequence[Delivery]], object], burst: bool) -> None:
        while not self._stopping.is_set():
            if self._suspended or not slots.acquire(timeout=TAKE_WAIT):
                self._stopping.wait(TAKE_WAIT if self._suspended else 0)
                continue
            free = 1
            while free < min(self._backlog, TAKEN) and slots.acquire(blocking=False):
                free += 1
            taken, deliveries = [], []
            try:
                taken = self._pop(free, burst)
                if self._stopping.is_set():
                    self._give_back(taken)
                elif taken:
                    deliveries = self._begin(taken)
                    start(deliveries)
                self._notice(None)
            except RedisError as error:  # what was taken rings again: RQ finds it, or our reconcile
                self._notice(error)
                self._stopping.wait(PAUSE)
            for _ in range(free - len(deliveries)):
                slots.release()
            if burst and not taken:
                return

    def _pop(self, count: int, burst: bool) -> list[bytes]:
        key, passed = self.queues[0].key, self.queues[0].intermediate_queue_key
        if self._backlog or burst:
            with self.connection.pipeline(transaction=False) as pipeline:
                for _ in range(count):
                    pipeline.lmove(key, passed)
                taken = [raw for raw in pipeline.execute() if raw is not None]
        else:
            taken = [raw] if (raw := self.connection.blmove(key, passed, TAKE_WAIT)) is not None else []
        self._backlog = self._backlog if taken else 0
        return taken

    def _give_back(self, taken: Sequence[bytes]) -> None:
        """Put rings that are not begun in front of the queue again, in their order. Raises RedisError."""
        with self.connection.pipeline() as pipeline:
            for raw in reversed(taken):
                pipeline.lrem(self.queues[0].intermediate_queue_key, 1, raw)
                pipeline.lpush(self.queues[0].key, raw)
            pipeline.execute()

    def _begin(self, taken: Sequence[bytes]) -> list[Delivery]:
        """Write into RQ's books that these jobs run now. What is no ring is forgotten, or fails in the books. Raises RedisError."""
        with self.connection.pipeline(transaction=False) as pipeline:
            for raw in taken:
                pipeline.hgetall(RingJob.key_for(raw.decode(errors="replace")))
            pipeline.llen(self.queues[0].key)
            *found, self._backlog = pipeline.execute(raise_on_error=False)
        begun, deliveries = [], []
        with self.connection.pipeline() as pipeline:
            for raw, data in zip(taken, found, strict=True):
                try:
                    rq_job = RingJob(raw.decode(), self.connection)
                    rq_job.restore(data)
                except Exception:  # its ring is lost; or it is doubled and done; or it is no RQ job at all
                    self.log.warning("rq.dropped: %.100r", raw, exc_info=bool(data))
                    pipeline.lrem(self.queues[0].intermediate_queue_key, 1, raw)
                    continue
                rq_job.origin = self.queues[0].name
                execution = executions.Execution.create(rq_job, LEASE, pipeline, self.name)
                rq_job.prepare_for_execution(self.name, pipeline)
                pipeline.persist(rq_job.key)
                pipeline.lrem(self.queues[0].intermediate_queue_key, 1, raw)
                begun.append((rq_job, execution))
            pipeline.execute()
        for rq_job, execution in begun:
            self.executions[execution.id] = execution
            try:
                deliveries.append((rq_job, execution, rq_job.ring()))
            except (InvalidRequest, exceptions.DeserializationError) as error:
                rq_job.retries_left, rq_job.failure_ttl = 0, FAILED_FOR
                self._ended.put((rq_job, execution, error))
        return deliveries

    async def _deliver(self, delivery: Delivery, handle: Handle, slots: threading.Semaphore) -> None:
        rq_job, execution, ring = delivery
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        self._running[execution.id] = rq_job, lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            await handle(ring)
        except BaseException as error:  # noqa: BLE001 - the books tell of it
            self._ended.put((rq_job, execution, error))
        else:
            self._ended.put((rq_job, execution, None))
        finally:
            slots.release()
            del self._running[execution.id]

    def _keep_books(self) -> None:
        """Write into RQ's books what ended, all that piled up at once."""
        ended: list[Ended | None] = []
        while None not in ended:
            ended = [self._ended.get()]
            while not self._ended.empty():
                ended.append(self._ended.get())
            deliveries = [delivery for delivery in ended if delivery is not None]
            try:
                self._succeed([(rq_job, execution) for rq_job, execution, error in deliveries if error is None])
            except RedisError as error:  # the records hold the outcome; RQ finds an abandoned execution, and rings once more
                self._notice(error)
            for rq_job, execution, failure in deliveries:
                if failure is not None:
                    self._fail(rq_job, execution, failure)
                self.executions.pop(execution.id, None)  # else the beat would keep it started for ever

    def _succeed(self, done: Sequence[tuple[RingJob, executions.Execution]]) -> None:
        """Do what RQ does for jobs without callbacks, dependents and result, in fewer steps."""
        with self.connection.pipeline() as pipeline:
            for rq_job, execution in done:
                pipeline.delete(rq_job.key)
                execution.delete(rq_job, pipeline)
            if done:
                worked = sum((utils.now() - execution.created_at for _, execution in done), timedelta())
                pipeline.hincrby(self.key, "successful_job_count", len(done))
                self.increment_total_working_time(worked, pipeline)
            pipeline.execute()

    def _fail(self, rq_job: RingJob, execution: executions.Execution, failure: BaseException) -> None:
        try:
            self._finalize_failure(rq_job, self.queues[0], execution, (type(failure), failure, failure.__traceback__))
        except Exception as error:  # what stands in Redis can be anything; the books of the others go on
            if isinstance(error, RedisError):
                self._notice(error)
            self.log.warning("rq.unrecorded: job %s failed (%r)", rq_job.id, error, exc_info=failure)

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

"""RQ on Redis as the doorbell: an RQ queue a lane, an RQ job a ring."""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from redis import Redis, RedisError, backoff, retry
from rq import Queue, job

from ragqueue import brokers
from ragqueue.adapters import Given
from ragqueue.errors import ConfigError, Unavailable, without_password
from ragqueue.queues.base import Handle, JobQueue
from ragqueue.queues.ring_job import FAILED_FOR, HANDLER, QUEUE_PREFIX, RETRIES, RingJob
from ragqueue.queues.rq_check import CHECK, DATABASE_KEY, failed_notes, failed_questions
from ragqueue.queues.rq_worker import LEASE, ConcurrentWorker
from ragqueue.types import LANES, Ring

BATCH = 1000  # rings sent in one transaction
# Seconds that RQ calls a worker alive after its last sign of life, beyond the minute that it adds.
WORKER_TTL = 30


class RQQueue(JobQueue):
    """Rings through RQ jobs, on one RQ queue a lane."""

    def __init__(self, url: str) -> None:
        url = url.removeprefix("rq+")
        self.log_url = url
        self._safe_url = without_password(url)
        # It tries again once, for an old connection may be dead.
        once = retry.Retry(backoff.NoBackoff(), 1)
        self._redis = Redis.from_url(brokers.usable(url), retry=once)
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
        worker = await asyncio.to_thread(
            ConcurrentWorker,
            [QUEUE_PREFIX + lane],
            connection=self._redis,
            worker_ttl=WORKER_TTL,
            maintenance_interval=LEASE,
        )
        worker.log.setLevel("WARNING")  # RQ tells of each step
        self._workers.append(worker)
        await worker.consume(handle, concurrency)

    async def check(self) -> Sequence[str]:
        try:
            return await asyncio.to_thread(self._check)
        except (RedisError, OSError) as error:
            raise brokers.failure(self._safe_url, error) from error

    def _check(self) -> list[str]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for command in (*CHECK, *failed_questions()):
                pipeline.execute_command(*command)
            answers = pipeline.execute(raise_on_error=False)
        facts = brokers.judge(self._safe_url, CHECK, answers[: len(CHECK)])
        notes = brokers.notes(self._safe_url, facts)
        return notes + failed_notes(answers[len(CHECK) :], self._redis)

    def check_same_redis(self, connection: Redis) -> None:
        """Make sure that a launcher's connection leads where ours does. Raises ConfigError."""
        brokers.check_same_redis(self._redis, connection, self._safe_url)

    async def claim_database(self, database: str) -> None:
        await self._call(self._redis.setnx, DATABASE_KEY, database)
        answer = await self._call(self._redis.get, DATABASE_KEY)
        owner = (answer or b"").decode(errors="replace")
        if owner != database:
            raise ConfigError(
                f"the broker {self._safe_url} belongs to database {owner!r}, "
                f"but this process uses {database!r}: "
                "give both the same RAGQUEUE_DATA, or this one another REDIS_URL",
                code="database_mismatch",
            )

    async def close(self) -> None:
        while self._workers:
            await asyncio.to_thread(self._workers.pop().retire)
        await asyncio.to_thread(self._redis.close)

    async def _call(self, function: Callable[..., Any], *args: object) -> Any:
        """Call what waits for Redis in a thread. Raises Unavailable."""
        try:
            return await asyncio.to_thread(function, *args)
        except (RedisError, OSError) as error:
            raise Unavailable(
                f"the broker {self._safe_url} failed: {brokers.reason(error)}"
            ) from error

    def _ring(self, rings: Sequence[Ring]) -> None:
        at_back = [ring for ring in rings if not ring.front]
        # Each ring at the front goes before the last one: in reverse they keep their order.
        at_front = [ring for ring in reversed(rings) if ring.front]
        ordered = at_back + at_front
        for start in range(0, len(ordered), BATCH):
            with self._redis.pipeline() as pipeline:
                for ring in ordered[start : start + BATCH]:
                    self._enqueue(ring, pipeline)
                pipeline.execute()

    def _enqueue(self, ring: Ring, pipeline: Any) -> None:
        """Add to the pipeline what makes an RQ job of a ring."""
        self._queues[ring.lane].enqueue_call(
            HANDLER,
            [ring.job_id, ring.lane, ring.database, ring.stamp, ring.front],
            timeout=-1,  # none, for our deadline ends a job
            result_ttl=0,
            failure_ttl=FAILED_FOR,
            at_front=ring.front,
            # A new id each time, for a doubled ring must not replace the first.
            job_id=f"{ring.job_id}-{uuid.uuid4().hex[:12]}",
            retry=job.Retry(max=RETRIES),
            pipeline=pipeline,
        )


def open(given: Given) -> RQQueue:
    """Return the queue on the Redis of a URL, `rq+redis://...`. Raises ConfigError."""
    return brokers.opened(RQQueue, given.url.removeprefix("rq+"))

"""RQ on Redis as the doorbell: one RQ queue a lane, one RQ job a ring."""

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any
from urllib.parse import urlsplit

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue, job, serializers

from ragqueue.errors import DatabaseMismatch, Unavailable
from ragqueue.queues.base import Handle, JobQueue
from ragqueue.queues.rq_worker import FAILED_FOR, HANDLER, LEASE, PAUSE, QUEUE_PREFIX, RETRIES, ConcurrentWorker, RingJob
from ragqueue.types import Ring

BATCH = 1000  # rings sent in one transaction

logger = logging.getLogger(__name__)
logging.getLogger("rq.worker").setLevel(logging.WARNING)  # RQ tells of each step


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
            raise DatabaseMismatch(f"{problem}: give both the same RAGQUEUE_DATA, or this one another REDIS_URL")

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
                        HANDLER, list(astuple(ring)), timeout=-1, result_ttl=0, failure_ttl=FAILED_FOR, at_front=ring.front,
                        job_id=f"{ring.job_id}-{uuid.uuid4().hex[:12]}", retry=job.Retry(max=RETRIES),
                    )
                    for ring in ordered if ring.lane == lane
                ]  # fmt: skip
                queue.enqueue_many(rq_jobs, pipeline)
            pipeline.execute()

    def _hire(self, lane: str) -> ConcurrentWorker:
        hired = ConcurrentWorker([QUEUE_PREFIX + lane], connection=self._redis, worker_ttl=30, maintenance_interval=LEASE)
        hired.register_birth()
        hired.subscribe()
        self._workers.append(hired)
        return hired

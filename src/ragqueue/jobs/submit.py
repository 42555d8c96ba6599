"""Accept work: the row is the promise, so when `submit` returns the job is on the disk; its ring follows outside of the request."""

import asyncio
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection

from ragqueue.errors import Conflict, IdempotencyConflict, NotFound, QueueFull
from ragqueue.events.pen import patiently
from ragqueue.queues.base import JobQueue
from ragqueue.records import jobs
from ragqueue.records.store import Records
from ragqueue.types import Job, Ring, lane_of

_MOST_KEPT = 20_000  # rings kept while the engine is away; reconcile finds what is dropped


class Ringer:
    """Rings the doorbell of the process's queue engine: sends what piled up while it last sent."""

    def __init__(self, queue: JobQueue, database: str) -> None:
        self._queue, self._database = queue, database
        self._waiting: list[Ring] = []
        self._sending = asyncio.Lock()
        self._noticed = asyncio.Event()

    @property
    def busy(self) -> bool:
        """Whether rings of this process are still on their way to the engine."""
        return bool(self._waiting)

    def ring(self, rings: Iterable[Ring]) -> None:
        """Send the rings soon."""
        self._waiting += [ring._replace(database=self._database) for ring in rings]
        self._noticed.set()

    async def flush(self) -> None:
        """Send what waits now. Raises Unavailable, after which it still waits."""
        async with self._sending:
            del self._waiting[:-_MOST_KEPT]
            rings = list(self._waiting)
            await self._queue.ring(rings)
            del self._waiting[: len(rings)]

    async def run(self) -> None:
        """Send what piled up, for ever; an engine that is away is waited for."""
        while True:
            await self._noticed.wait()
            self._noticed.clear()
            await patiently(self.flush)


class Bounds(NamedTuple):
    """How many jobs of a lane may wait, and how long a job may take (seconds)."""

    lane: int = 20_000
    tenant: int = 5_000
    chat_deadline: float = 600.0
    other_deadline: float = 3600.0


class Submitter:
    """Writes jobs and rings for them."""

    def __init__(self, records: Records, ringer: Ringer, bounds: Bounds) -> None:
        self._records, self._ringer, self._bounds = records, ringer, bounds

    async def submit(
        self, tenant: str, kind: str, payload: Mapping[str, Any], *, idempotency: tuple[str, str, str] | None = None,
        first: Callable[[Connection], None] | None = None, retry_of: str | None = None,
    ) -> Job:  # fmt: skip
        """Store a job durably, or return the one that `idempotency` (caller, key, SHA-256 of the body) made; `first` runs in its transaction.

        Raises QueueFull, IdempotencyConflict, StoreFull, Unavailable.
        """
        new_id, deadline = uuid.uuid4().hex, self._bounds.chat_deadline if kind == "chat" else self._bounds.other_deadline

        def insert(connection: Connection) -> Job:
            if idempotency and (known := jobs.remembered(connection, tenant, *idempotency[:2])):
                if known[0] != idempotency[2]:
                    raise IdempotencyConflict(f"Idempotency-Key {idempotency[1]!r} was used with another body: send a new key")
                job = jobs.get(connection, tenant, known[1])
                assert job is not None  # with a job its keys are erased
                return job
            self._admit(connection, tenant, lane_of(kind))
            if first:
                first(connection)
            job = jobs.insert_job(connection, tenant, new_id, kind, payload, deadline, retry_of)
            if idempotency:
                jobs.remember(connection, tenant, *idempotency, job)
            return job

        job = await self._records.write(insert)
        if job.id == new_id:  # not one that was remembered
            self._ringer.ring([Ring(job.id, job.lane, "", job.created_at)])
        return job

    async def retry(self, tenant: str, job_id: str) -> Job:
        """Make a new job of a failed or cancelled one. Raises NotFound, Conflict, QueueFull."""
        old = await self._records.read(jobs.get, tenant, job_id)
        if old is None:
            raise NotFound(f"there is no job {job_id!r}")
        if old.state not in ("failed", "cancelled"):
            raise Conflict(f"job {job_id!r} is {old.state}: only a failed or cancelled job can be tried again")
        return await self.submit(tenant, old.kind, old.payload, retry_of=old.id)

    def _admit(self, connection: Connection, tenant: str, lane: str) -> None:
        everybody, mine = jobs.waiting(connection, tenant, lane)
        for count, bound in ((everybody, self._bounds.lane), (mine, self._bounds.tenant)):
            if count >= bound:
                rate = max(jobs.ended_since(connection, lane, 60.0) / 60.0, 0.1)  # of the last minute, in jobs a second
                said = f"{count} jobs wait in lane {lane!r}, the bound is {bound}: try again later"
                raise QueueFull(said, retry_after=round(min(60.0, max(1.0, everybody / 20 / rate))))

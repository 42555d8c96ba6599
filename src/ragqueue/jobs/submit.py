"""Accept work: the row is the promise, so when `submit` returns the job is on the disk."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from ragqueue.errors import Conflict, IdempotencyConflict, NotFound, QueueFull
from ragqueue.jobs.ring import Ringer
from ragqueue.records import jobs
from ragqueue.records.store import Records
from ragqueue.types import Job, Ring, lane_of

_RATE_WINDOW = 60.0  # seconds over which the rate of ended jobs is measured for Retry-After


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many jobs of a lane may wait, and how long a job may take (seconds)."""

    lane: int = 20_000
    tenant: int = 5_000
    chat_deadline: float = 600.0
    other_deadline: float = 3600.0


@dataclass(frozen=True, slots=True)
class Idempotency:
    """What makes a repeated request the same request."""

    caller: str
    key: str
    body_sha256: str


class Submitter:
    """Writes jobs and rings for them."""

    def __init__(self, records: Records, ringer: Ringer, bounds: Bounds) -> None:
        self._records, self._ringer, self._bounds = records, ringer, bounds

    async def submit(
        self,
        tenant: str,
        kind: str,
        payload: Mapping[str, Any],
        *,
        idempotency: Idempotency | None = None,
        first: Callable[[Connection], None] | None = None,
        retry_of: str | None = None,
    ) -> tuple[Job, bool]:
        """Store a job durably and return it with whether it is new; `first` runs in the same transaction.

        Raises QueueFull, IdempotencyConflict, StoreFull, Unavailable.
        """
        deadline = self._bounds.chat_deadline if kind == "chat" else self._bounds.other_deadline
        new = jobs.NewJob(tenant, uuid.uuid4().hex, kind, payload, deadline, retry_of)
        job, fresh = await self._records.write(self._insert, new, idempotency, first)
        if fresh:
            self._ringer.ring([Ring(job.id, job.lane, "", job.created_at)])
        return job, fresh

    async def retry(self, tenant: str, job_id: str) -> Job:
        """Make a new job of a failed or cancelled one. Raises NotFound, Conflict, QueueFull."""
        old = await self._records.read(jobs.get, tenant, job_id)
        if old is None:
            raise NotFound(f"there is no job {job_id!r}")
        if old.state not in ("failed", "cancelled"):
            raise Conflict(f"job {job_id!r} is {old.state}: only a failed or cancelled job can be tried again")
        return (await self.submit(tenant, old.kind, old.payload, retry_of=old.id))[0]

    def _insert(
        self, connection: Connection, new: jobs.NewJob, idempotency: Idempotency | None, first: Callable[[Connection], None] | None
    ) -> tuple[Job, bool]:
        if idempotency is not None:
            known = jobs.remembered(connection, new.tenant, idempotency.caller, idempotency.key)
            if known is not None:
                return self._repeated(connection, new.tenant, idempotency, known), False
        self._admit(connection, new.tenant, lane_of(new.kind))
        if first is not None:
            first(connection)
        job = jobs.insert_job(connection, new)
        if idempotency is not None:
            jobs.remember(connection, new.tenant, idempotency.caller, idempotency.key, idempotency.body_sha256, job)
        return job, True

    def _repeated(self, connection: Connection, tenant: str, idempotency: Idempotency, known: tuple[str, str]) -> Job:
        body_sha256, job_id = known
        if body_sha256 != idempotency.body_sha256:
            raise IdempotencyConflict(f"Idempotency-Key {idempotency.key!r} was used with another body: send a new key")
        job = jobs.get(connection, tenant, job_id)
        if job is None:
            raise NotFound(f"the job of Idempotency-Key {idempotency.key!r} was deleted: send a new key")
        return job

    def _admit(self, connection: Connection, tenant: str, lane: str) -> None:
        everybody, mine = jobs.waiting(connection, tenant, lane)
        if everybody < self._bounds.lane and mine < self._bounds.tenant:
            return
        ended = jobs.ended_since(connection, lane, _RATE_WINDOW)
        retry_after = min(60.0, max(1.0, everybody / 20 / max(ended / _RATE_WINDOW, 0.1)))
        bound, count = (self._bounds.lane, everybody) if everybody >= self._bounds.lane else (self._bounds.tenant, mine)
        raise QueueFull(f"{count} jobs wait in lane {lane!r}, the bound is {bound}: try again later", retry_after=round(retry_after))

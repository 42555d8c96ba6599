"""Accept work: the row is the promise, so when `submit` returns the job is on the disk.

Its ring follows outside of the request.
"""

import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection

from ragqueue.errors import Conflict, IdempotencyConflict, QueueFull
from ragqueue.jobs.ring import Ringer
from ragqueue.records import jobs
from ragqueue.records.store import Records
from ragqueue.storable import check_storable
from ragqueue.types import Job, Ring, lane_of

RATE_OVER = 60.0  # seconds over which the rate of a lane is taken
LEAST_RATE = 0.1  # jobs a second that a lane is taken to end, also when none ended lately
PART_TO_WAIT_FOR = 20  # who is refused comes back when about a twentieth of the lane is done


class Bounds(NamedTuple):
    """How many jobs of a lane may wait."""

    of_all: int
    of_tenant: int


class Submitter:
    """Writes jobs and rings for them."""

    def __init__(
        self, records: Records, ringer: Ringer, *, bounds: Bounds, deadlines: Mapping[str, float]
    ) -> None:
        """`deadlines`: seconds that a job may take, by lane."""
        self._records = records
        self._ringer = ringer
        self._bounds = bounds
        self._deadlines = deadlines

    async def submit(
        self,
        tenant: str,
        kind: str,
        payload: Mapping[str, Any],
        *,
        idempotency: str | None = None,
        first: Callable[[Connection, str], None] | None = None,
        retry_of: str | None = None,
        admitted: bool = False,
    ) -> Job:
        """Store a job durably, or return the one that `idempotency` (caller and key) made.

        `first` runs in its transaction, with the new job's id; one that is `admitted` comes in
        however many wait. Raises InvalidRequest, QueueFull, IdempotencyConflict, StoreFull,
        Unavailable.
        """
        check_storable("the request", payload)
        new_id = uuid.uuid4().hex
        lane = lane_of(kind)

        def insert(connection: Connection) -> Job:
            if idempotency:
                earlier = jobs.by_key(connection, tenant, idempotency)
                if earlier is not None:
                    return same_request(earlier, payload)
            if not admitted:
                self._admit(connection, tenant, lane)
            if first:
                first(connection, new_id)
            return jobs.insert_job(
                connection,
                tenant,
                new_id,
                kind,
                payload,
                self._deadlines[lane],
                retry_of=retry_of,
                idempotency=idempotency,
            )

        job = await self._records.write(insert)
        if job.id == new_id:  # not one that was remembered
            ring = Ring(job_id=job.id, lane=job.lane, database="", stamp=job.created_at)
            self._ringer.ring([ring])
        return job

    async def check_room(self, tenant: str, kind: str) -> None:
        """Refuse early what `submit` would refuse now. Raises QueueFull."""
        await self._records.read(self._admit, tenant, lane_of(kind))

    async def retry(self, ended: Job) -> Job:
        """Make a new job of a failed or cancelled one. Raises Conflict, QueueFull."""
        if ended.state not in ("failed", "cancelled"):
            raise Conflict(
                f"job {ended.id!r} is {ended.state}: "
                "only a failed or cancelled job can be tried again"
            )
        return await self.submit(ended.tenant, ended.kind, ended.payload, retry_of=ended.id)

    def _admit(self, connection: Connection, tenant: str, lane: str) -> None:
        """Raise QueueFull when too many jobs wait in a lane, of all tenants or of this one."""
        waiting, waiting_of_tenant = jobs.waiting(connection, tenant, lane)
        if waiting >= self._bounds.of_all:
            count, bound = waiting, self._bounds.of_all
        elif waiting_of_tenant >= self._bounds.of_tenant:
            count, bound = waiting_of_tenant, self._bounds.of_tenant
        else:
            return
        rate = max(jobs.ended_since(connection, lane, RATE_OVER) / RATE_OVER, LEAST_RATE)
        seconds = waiting / PART_TO_WAIT_FOR / rate
        raise QueueFull(
            f"{count} jobs wait in lane {lane!r}, the bound is {bound}: try again later",
            retry_after=round(min(60.0, max(1.0, seconds))),
        )


def same_request(earlier: Job, payload: Mapping[str, Any]) -> Job:
    """Return the job that an Idempotency-Key made. Raises IdempotencyConflict for another body."""
    if earlier.payload != payload:
        raise IdempotencyConflict("this Idempotency-Key was used with another body: send a new key")
    return earlier

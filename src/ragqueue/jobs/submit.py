"""Accept work: the row is the promise, so when `submit` returns the job is on the disk; its ring follows outside of the request."""

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection

from ragqueue.errors import Conflict, IdempotencyConflict, QueueFull
from ragqueue.jobs.ring import Ringer
from ragqueue.records import jobs
from ragqueue.records.store import Records
from ragqueue.storable import check_storable
from ragqueue.types import Job, Ring, lane_of


class Submitter:
    """Writes jobs and rings for them."""

    def __init__(
        self,
        records: Records,
        ringer: Ringer,
        *,
        bounds: tuple[int, int],
        deadlines: Mapping[str, float],
    ) -> None:
        """`bounds`: jobs of a lane that may wait, of all tenants and of one; `deadlines`: seconds that a job may take, by lane."""
        self._records, self._ringer, self._bounds, self._deadlines = (
            records,
            ringer,
            bounds,
            deadlines,
        )

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

        `first` runs in its transaction, with the new job's id; one that is `admitted` comes in however many wait.
        Raises InvalidRequest, QueueFull, IdempotencyConflict, StoreFull, Unavailable.
        """
        check_storable("the request", payload)
        new_id, lane = uuid.uuid4().hex, lane_of(kind)

        def insert(connection: Connection) -> Job:
            if idempotency and (known := jobs.by_key(connection, tenant, idempotency)):
                if known.payload != payload:
                    raise IdempotencyConflict(
                        "this Idempotency-Key was used with another body: send a new key"
                    )
                return known
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
                retry_of,
                idempotency,
            )

        job = await self._records.write(insert)
        if job.id == new_id:  # not one that was remembered
            self._ringer.ring([Ring(job.id, job.lane, "", job.created_at)])
        return job

    async def retry(self, old: Job) -> Job:
        """Make a new job of a failed or cancelled one. Raises Conflict, QueueFull."""
        if old.state not in ("failed", "cancelled"):
            raise Conflict(
                f"job {old.id!r} is {old.state}: only a failed or cancelled job can be tried again"
            )
        return await self.submit(old.tenant, old.kind, old.payload, retry_of=old.id)

    def _admit(self, connection: Connection, tenant: str, lane: str) -> None:
        waiting = jobs.waiting(connection, tenant, lane)
        for count, bound in zip(waiting, self._bounds, strict=True):
            if count >= bound:
                rate = max(
                    jobs.ended_since(connection, lane, 60.0) / 60.0, 0.1
                )  # of the last minute, in jobs a second
                said = f"{count} jobs wait in lane {lane!r}, the bound is {bound}: try again later"
                raise QueueFull(
                    said, retry_after=round(min(60.0, max(1.0, waiting[0] / 20 / rate)))
                )

"""The rows of jobs: every step of a job's life is one conditional statement here.

Only `release` and `bury` end a lease that its owner did not give back, so deaths are counted in one place.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, case, delete, func, insert, literal, or_, select, true, update

from ragqueue.records import documents
from ragqueue.records.schema import answers, events, idempotency, jobs, quotes
from ragqueue.records.store import now
from ragqueue.types import ENDED, Job, Outcome, Ring, lane_of

FIRST_DELAYED_DEATH = 2  # a death of a shared process proves nothing about a job: the first one costs it no time
LONGEST_DELAY = 15.0  # seconds
DEAD_LETTER = "dead_letter"

_COLUMNS = [
    jobs.c[name]
    for name in (
        "tenant", "id", "kind", "lane", "state", "payload", "attempt", "tries", "deaths", "run_at", "deadline_at", "created_at", "started_at",
        "ended_at", "owner", "cancel_requested", "result", "error_code", "error_message", "retry_of",
    )
]  # fmt: skip


def to_job(row: Row[Any]) -> Job:
    """Return the record of a row of `_COLUMNS`."""
    values = dict(row._mapping)
    values["payload"] = json.loads(values["payload"])
    values["result"] = None if values["result"] is None else json.loads(values["result"])
    values["cancel_requested"] = bool(values["cancel_requested"])
    return Job(**values)


@dataclass(frozen=True, slots=True)
class NewJob:
    """What a submitter says of a job."""

    tenant: str
    id: str
    kind: str
    payload: Mapping[str, Any]
    deadline: float  # seconds from now
    retry_of: str | None = None


def insert_job(connection: Connection, new: NewJob) -> Job:
    """Add a queued job that is due now and counts as rung now: its submitter rings after the commit."""
    at = connection.execute(select(now())).scalar_one()
    lane = lane_of(new.kind)
    row = {
        "tenant": new.tenant, "id": new.id, "kind": new.kind, "lane": lane, "state": "queued",
        "payload": json.dumps(new.payload, ensure_ascii=False), "attempt": 0, "tries": 0, "deaths": 0, "place": at, "run_at": at,
        "deadline_at": at + new.deadline, "rung_at": at, "cancel_requested": False, "created_at": at, "retry_of": new.retry_of,
    }  # fmt: skip
    connection.execute(insert(jobs), row)
    return Job(new.tenant, new.id, new.kind, lane, "queued", new.payload, 0, 0, 0, at, at + new.deadline, at, retry_of=new.retry_of)


def get(connection: Connection, tenant: str, job_id: str) -> Job | None:
    """Return the tenant's job."""
    row = connection.execute(select(*_COLUMNS).where(jobs.c.tenant == tenant, jobs.c.id == job_id)).first()
    return to_job(row) if row else None


def listed(connection: Connection, tenant: str, *, state: str | None, kind: str | None, before: float | None, limit: int) -> list[Job]:
    """Return the tenant's newest jobs."""
    query = select(*_COLUMNS).where(jobs.c.tenant == tenant).order_by(jobs.c.created_at.desc()).limit(limit)
    for column, value in ((jobs.c.state, state), (jobs.c.kind, kind)):
        query = query if value is None else query.where(column == value)
    return [to_job(row) for row in connection.execute(query if before is None else query.where(jobs.c.created_at < before))]


def waiting(connection: Connection, tenant: str, lane: str) -> tuple[int, int]:
    """Return how many jobs of the lane wait: of all tenants, and of this one."""
    queued = select(func.count()).select_from(jobs).where(jobs.c.state == "queued", jobs.c.lane == lane)
    return connection.execute(queued).scalar_one(), connection.execute(queued.where(jobs.c.tenant == tenant)).scalar_one()


def ended_since(connection: Connection, lane: str, seconds: float) -> int:
    """Return how many jobs of the lane ended in the last seconds."""
    recent = select(func.count()).select_from(jobs).where(jobs.c.ended_at > now() - seconds, jobs.c.lane == lane)
    return int(connection.execute(recent).scalar_one())


def due(connection: Connection, lane: str, limit: int) -> list[str]:
    """Return the ids of claimable jobs in the order of their places."""
    query = select(jobs.c.id).where(jobs.c.state == "queued", jobs.c.lane == lane, jobs.c.run_at <= now())
    return list(connection.execute(query.order_by(jobs.c.place).limit(limit)).scalars())


def claim(connection: Connection, job_id: str, owner: str, stamp: float, lease: float) -> Job | None:
    """Take a queued and due job for a new attempt; None when another was faster, or it is not due."""
    query = (
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.state == "queued", jobs.c.run_at <= now())
        .values(
            state="running", attempt=jobs.c.attempt + 1, owner=owner, lease_until=now() + lease, claimed_stamp=stamp or None,
            started_at=func.coalesce(jobs.c.started_at, now()),
        )
        .returning(*_COLUMNS)
    )  # fmt: skip
    row = connection.execute(query).first()
    return to_job(row) if row else None


def renew(connection: Connection, owner: str, held: Sequence[str], lease: float) -> dict[str, int]:
    """Extend a process's leases on the jobs that it says it holds, in one statement; return {job id: attempt} of those it still has."""
    mine = and_(jobs.c.owner == owner, jobs.c.state == "running", jobs.c.id.in_(_values(held)))
    query = update(jobs).where(mine).values(lease_until=now() + lease)
    return {row.id: row.attempt for row in connection.execute(query.returning(jobs.c.id, jobs.c.attempt))}


def cancels(connection: Connection, owner: str) -> list[str]:
    """Return the process's running jobs that somebody wants to cancel."""
    query = select(jobs.c.id).where(jobs.c.owner == owner, jobs.c.state == "running", jobs.c.cancel_requested == true())
    return list(connection.execute(query).scalars())


def current(job_id: str, attempt: int) -> Any:
    """Return the condition under which a run may write: it is still the job's current one."""
    return and_(jobs.c.id == job_id, jobs.c.attempt == attempt, jobs.c.state == "running")


def finish(connection: Connection, job: Job, outcome: Outcome) -> bool:
    """End the job with this outcome, and store a chat's answer; False when the run is not the current one."""
    if job.kind == "chat" and documents.any_deleted(connection, job.tenant, job.id):
        outcome = Outcome(
            "failed", error_code="source_deleted", error_message="a document that it was answered from was deleted meanwhile: ask again"
        )
    body = None if outcome.result is None else json.dumps(outcome.result, ensure_ascii=False)
    if not end(connection, current(job.id, job.attempt), outcome, result=None if job.kind == "chat" else body):
        return False
    if job.kind == "chat" and body is not None:
        row = {"tenant": job.tenant, "job_id": job.id, "attempt": job.attempt, "body": body}
        connection.execute(insert(answers), row | {"created_at": connection.execute(select(now())).scalar_one()})
    return True


def end(connection: Connection, condition: Any, outcome: Outcome, *, result: str | None = None) -> bool:
    """Put a terminal state on the row that the condition names."""
    query = (
        update(jobs)
        .where(condition)
        .values(
            state=outcome.state, ended_at=now(), owner=None, lease_until=None, error_code=outcome.error_code,
            error_message=outcome.error_message, result=result,
        )
    )  # fmt: skip
    return bool(connection.execute(query).rowcount)


def retry_later(connection: Connection, job: Job, delay: float, error_code: str, error_message: str) -> bool:
    """Give the job back after a failed try; its next run is due after the delay (seconds), at the front."""
    query = update(jobs).where(current(job.id, job.attempt))
    values = _requeued() | {
        "tries": jobs.c.tries + 1, "run_at": now() + delay, "error_code": error_code, "error_message": error_message,
    }  # fmt: skip
    return bool(connection.execute(query.values(**values)).rowcount)


def hand_back(connection: Connection, owner: str) -> list[Ring]:
    """Give back everything that a process holds, for it is about to end in good order: no death is counted."""
    query = update(jobs).where(jobs.c.owner == owner, jobs.c.state == "running").values(**_requeued(), run_at=now())
    return [Ring(row.id, row.lane, "", 0.0, front=True) for row in connection.execute(query.returning(jobs.c.id, jobs.c.lane))]


def release(connection: Connection, condition: Any) -> int:
    """End the leases that the condition names as deaths; from the second death on the job waits a little."""
    pause = case(
        (jobs.c.deaths + 1 < FIRST_DELAYED_DEATH, 0.0),
        (jobs.c.deaths + 1 - FIRST_DELAYED_DEATH >= 4, LONGEST_DELAY),
        else_=_power_of_two(jobs.c.deaths + 1 - FIRST_DELAYED_DEATH),
    )
    query = update(jobs).where(jobs.c.state == "running", condition)
    return connection.execute(query.values(**_requeued(), deaths=jobs.c.deaths + 1, run_at=now() + pause)).rowcount


def release_owner(connection: Connection, owner: str) -> int:
    """End the leases of a process whose death its supervisor saw."""
    return release(connection, jobs.c.owner == owner)


def release_dead(connection: Connection) -> int:
    """End the leases that ran out."""
    return release(connection, jobs.c.lease_until < now())


def _power_of_two(exponent: Any) -> Any:
    return case(*((exponent == n, float(2**n)) for n in range(4)), else_=LONGEST_DELAY)


def _requeued() -> dict[str, Any]:
    return {"state": "queued", "place": 0.0, "rung_at": None, "owner": None, "lease_until": None}


def any_dead(connection: Connection) -> bool:
    """Say whether a lease ran out: lets the usual look be a read."""
    return connection.execute(select(jobs.c.id).where(jobs.c.state == "running", jobs.c.lease_until < now()).limit(1)).first() is not None


def unrung(connection: Connection) -> bool:
    """Say whether a due job waits for its first ring."""
    query = select(jobs.c.id).where(jobs.c.state == "queued", jobs.c.rung_at.is_(None), jobs.c.run_at <= now())
    return connection.execute(query.limit(1)).first() is not None


def ring_unrung(connection: Connection) -> list[Ring]:
    """Mark the due jobs that were never rung as rung now; the caller rings them, at the front."""
    return _rerung(connection, and_(jobs.c.rung_at.is_(None), jobs.c.run_at <= now()), 10_000)


def ring_lost(connection: Connection, lane: str, *, empty: bool, age: float, overtakings: int, limit: int) -> list[Ring]:
    """Mark as rung the jobs whose ring must be lost: older than `age`, and the engine's queue is empty or claims of
    `overtakings` jobs rung later went by. The caller rings them, at the front.
    """
    old = and_(jobs.c.lane == lane, jobs.c.rung_at < now() - age, jobs.c.run_at <= now())
    if not empty:
        claimed = select(jobs.c.claimed_stamp).where(jobs.c.lane == lane, jobs.c.claimed_stamp.is_not(None))
        last = connection.execute(claimed.order_by(jobs.c.claimed_stamp.desc()).limit(1).offset(overtakings - 1)).scalar()
        if last is None:
            return []
        old = and_(old, jobs.c.rung_at < last)
    if connection.execute(select(jobs.c.id).where(jobs.c.state == "queued", old).limit(1)).first() is None:
        return []
    return _rerung(connection, old, limit)


def _rerung(connection: Connection, condition: Any, limit: int) -> list[Ring]:
    chosen = select(jobs.c.id).where(jobs.c.state == "queued", condition).order_by(jobs.c.place, jobs.c.created_at).limit(limit)
    query = update(jobs).where(jobs.c.id.in_(chosen), jobs.c.state == "queued").values(rung_at=now())
    return [Ring(row.id, row.lane, "", 0.0, front=True) for row in connection.execute(query.returning(jobs.c.id, jobs.c.lane))]


def request_cancel(connection: Connection, tenant: str, job_id: str) -> Job | None:
    """Flag a job; one that still waits ends at once. Returns the job as it then is."""
    mine = and_(jobs.c.tenant == tenant, jobs.c.id == job_id)
    connection.execute(update(jobs).where(mine, jobs.c.state.not_in(ENDED)).values(cancel_requested=True))
    end(connection, and_(mine, jobs.c.state == "queued", jobs.c.attempt == 0), Outcome("cancelled"))
    return get(connection, tenant, job_id)


def overdue(connection: Connection, grace: float) -> list[Job]:
    """Return jobs that nobody works on and that must end: cancelled, or past their deadline (by `grace` while they run)."""
    condition = or_(
        and_(jobs.c.state == "queued", jobs.c.cancel_requested == true()),
        and_(jobs.c.state == "queued", jobs.c.deadline_at < now()),
        and_(jobs.c.state == "running", jobs.c.deadline_at < now() - grace),
    )
    return [
        to_job(row) for row in connection.execute(select(*_COLUMNS).where(jobs.c.state.in_(("queued", "running")), condition).limit(500))
    ]


def bury(connection: Connection, job: Job, outcome: Outcome) -> int | None:
    """End a job over the head of its worker: a new attempt that nobody runs. Returns it, None when the job went on meanwhile.

    The caller fences the log with the new attempt first, so that nothing is appended after the terminal event.
    """
    unchanged = and_(jobs.c.id == job.id, jobs.c.attempt == job.attempt, jobs.c.state == job.state)
    if not end(connection, unchanged, outcome):
        return None
    connection.execute(update(jobs).where(jobs.c.id == job.id).values(attempt=jobs.c.attempt + 1))
    return job.attempt + 1


def states(connection: Connection, job_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return (state, attempt) of these jobs in one query."""
    query = select(jobs.c.id, jobs.c.state, jobs.c.attempt).where(jobs.c.id.in_(_values(job_ids)))
    return {row.id: (row.state, row.attempt) for row in connection.execute(query)}


def _values(ids: Sequence[str]) -> Any:
    return select(func.json_each(json.dumps(list(ids))).table_valued("value").c.value)


def answer(connection: Connection, tenant: str, job_id: str) -> dict[str, Any] | None:
    """Return the stored answer of a chat job."""
    query = select(answers.c.body).where(answers.c.tenant == tenant, answers.c.job_id == job_id).order_by(answers.c.attempt.desc())
    body = connection.execute(query.limit(1)).scalar()
    return None if body is None else json.loads(body)


def remembered(connection: Connection, tenant: str, caller: str, key: str) -> tuple[str, str] | None:
    """Return (body hash, job id) of an Idempotency-Key."""
    mine = and_(idempotency.c.tenant == tenant, idempotency.c.caller == caller, idempotency.c.key == key)
    row = connection.execute(select(idempotency.c.body_sha256, idempotency.c.job_id).where(mine)).first()
    return (row.body_sha256, row.job_id) if row else None


def remember(connection: Connection, tenant: str, caller: str, key: str, body_sha256: str, job: Job) -> None:
    """Keep an Idempotency-Key with the job that it made."""
    row = {"tenant": tenant, "caller": caller, "key": key, "body_sha256": body_sha256, "job_id": job.id, "created_at": job.created_at}
    connection.execute(insert(idempotency), row)


def erase(connection: Connection, tenant: str, job_ids: Sequence[str]) -> int:
    """Erase ended jobs with their answers, events and what refers to them; return how many jobs went."""
    if not job_ids:
        return 0
    gone = list(connection.execute(
        delete(jobs).where(jobs.c.tenant == tenant, jobs.c.id.in_(job_ids), jobs.c.state.in_(ENDED)).returning(jobs.c.id)
    ).scalars())  # fmt: skip
    connection.execute(delete(answers).where(answers.c.tenant == tenant, answers.c.job_id.in_(gone)))
    connection.execute(delete(quotes).where(quotes.c.tenant == tenant, quotes.c.job_id.in_(gone)))
    connection.execute(delete(idempotency).where(idempotency.c.tenant == tenant, idempotency.c.job_id.in_(gone)))
    connection.execute(delete(events).where(events.c.job_id.in_(gone)))
    return len(gone)


def expired(connection: Connection, age: float, limit: int, with_log: bool = False) -> list[tuple[str, str]]:
    """Return (tenant, job id) of jobs that ended more than `age` seconds ago; `with_log`: that still have a log in SQL."""
    query = select(jobs.c.tenant, jobs.c.id).where(jobs.c.ended_at < now() - age).order_by(jobs.c.ended_at).limit(limit)
    if with_log:
        query = query.where(select(literal(1)).where(events.c.job_id == jobs.c.id).exists())
    return [(row.tenant, row.id) for row in connection.execute(query)]


def forget_keys(connection: Connection, age: float) -> int:
    """Drop Idempotency-Keys older than `age` seconds."""
    return connection.execute(delete(idempotency).where(idempotency.c.created_at < now() - bindparam("age", age))).rowcount

"""The rows of jobs: every step of a job's life is one conditional statement here.

Only `release` and `bury` end a lease that its owner did not give back, so deaths are counted in one place.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, case, delete, func, insert, or_, select, true, update

from ragqueue.records import documents
from ragqueue.records.schema import answers, events, idempotency, jobs, quotes
from ragqueue.records.store import now, to_json
from ragqueue.types import ENDED, Job, Outcome, Ring, lane_of

DEAD_LETTER = "dead_letter"
_FIELDS = [name for name in Job.__dataclass_fields__ if name in jobs.c]
_JOBS = select(*(jobs.c[name] for name in _FIELDS))
_QUEUED, _RUNNING = jobs.c.state == "queued", jobs.c.state == "running"
_CLAIM = (  # built once, as it is run for each job: to build it takes as long as to run it
    update(jobs)
    .where(jobs.c.id == bindparam("wanted"), _QUEUED, jobs.c.run_at <= now())
    .values(state="running", attempt=jobs.c.attempt + 1, owner=bindparam("new_owner"), lease_until=now() + bindparam("lease"))
    .values(claimed_stamp=bindparam("stamp"), started_at=func.coalesce(jobs.c.started_at, now()))
    .returning(*_JOBS.selected_columns)
)
_END = update(jobs).values(  # built once, too
    state=bindparam("new_state"), ended_at=now(), owner=None, lease_until=None, error_code=bindparam("code"),
    error_message=bindparam("message"), result=bindparam("body"),
)  # fmt: skip
_ANSWER = insert(answers).values(created_at=now())
_REQUEUED = {"state": "queued", "place": 0.0, "rung_at": None, "owner": None, "lease_until": None}


def _job(row: Row[Any]) -> Job:
    values = dict(row._mapping)
    values["payload"] = json.loads(values["payload"])
    values["result"] = json.loads(values["result"] or "null")
    values["cancel_requested"] = bool(values["cancel_requested"])
    return Job(**values)


def _one(tenant: str, job_id: str) -> ColumnElement[bool]:
    return and_(jobs.c.tenant == tenant, jobs.c.id == job_id)


def _values(ids: Sequence[str]) -> Any:
    return select(func.json_each(json.dumps(list(ids))).table_valued("value").c.value)


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
    job = Job(
        new.tenant, new.id, new.kind, lane_of(new.kind), "queued", new.payload, attempt=0, tries=0, deaths=0, run_at=at,
        deadline_at=at + new.deadline, created_at=at, retry_of=new.retry_of,
    )  # fmt: skip
    row = {name: getattr(job, name) for name in _FIELDS} | {"payload": to_json(new.payload)}
    connection.execute(insert(jobs), row | {"place": at, "rung_at": at})
    return job


def get(connection: Connection, tenant: str, job_id: str) -> Job | None:
    """Return the tenant's job."""
    row = connection.execute(_JOBS.where(_one(tenant, job_id))).first()
    return _job(row) if row else None


def listed(connection: Connection, tenant: str, *, state: str | None, kind: str | None, before: float | None, limit: int) -> list[Job]:
    """Return the tenant's newest jobs."""
    query = _JOBS.where(jobs.c.tenant == tenant).order_by(jobs.c.created_at.desc()).limit(limit)
    for column, value in ((jobs.c.state, state), (jobs.c.kind, kind)):
        query = query if value is None else query.where(column == value)
    return [_job(row) for row in connection.execute(query if before is None else query.where(jobs.c.created_at < before))]


def waiting(connection: Connection, tenant: str, lane: str) -> tuple[int, int]:
    """Return how many jobs of the lane wait: of all tenants, and of this one."""
    query = select(func.count(), func.count().filter(jobs.c.tenant == tenant)).select_from(jobs)
    everybody, mine = connection.execute(query.where(_QUEUED, jobs.c.lane == lane)).one()
    return everybody, mine


def ended_since(connection: Connection, lane: str, seconds: float) -> int:
    """Return how many jobs of the lane ended in the last seconds."""
    recent = select(func.count()).select_from(jobs).where(jobs.c.ended_at > now() - seconds, jobs.c.lane == lane)
    return int(connection.execute(recent).scalar_one())


def due(connection: Connection, lane: str, limit: int) -> list[str]:
    """Return the ids of claimable jobs in the order of their places."""
    query = select(jobs.c.id).where(_QUEUED, jobs.c.lane == lane, jobs.c.run_at <= now())
    return list(connection.execute(query.order_by(jobs.c.place).limit(limit)).scalars())


def claim(connection: Connection, job_id: str, owner: str, stamp: float, lease: float) -> Job | None:
    """Take a queued and due job for a new attempt; None when another was faster, or it is not due."""
    given = {"wanted": job_id, "new_owner": owner, "stamp": stamp or None, "lease": lease}
    row = connection.execute(_CLAIM, given).first()
    return _job(row) if row else None


def renew(connection: Connection, owner: str, held: Sequence[str], lease: float) -> dict[str, int]:
    """Extend a process's leases on the jobs that it says it holds; return {job id: attempt} of those it still has."""
    query = update(jobs).where(jobs.c.owner == owner, _RUNNING, jobs.c.id.in_(_values(held))).values(lease_until=now() + lease)
    return {row.id: row.attempt for row in connection.execute(query.returning(jobs.c.id, jobs.c.attempt))}


def cancels(connection: Connection, owner: str) -> list[str]:
    """Return the process's running jobs that somebody wants to cancel."""
    query = select(jobs.c.id).where(jobs.c.owner == owner, _RUNNING, jobs.c.cancel_requested == true())
    return list(connection.execute(query).scalars())


def current(job_id: str, attempt: int) -> ColumnElement[bool]:
    """Return the condition under which a run may write: it is still the job's current one."""
    return and_(jobs.c.id == job_id, jobs.c.attempt == attempt, _RUNNING)


def finish(connection: Connection, job: Job, outcome: Outcome) -> bool:
    """End the job with this outcome, and store a chat's answer; False when the run is not the current one."""
    if job.kind == "chat" and documents.any_deleted(connection, job.tenant, job.id):
        outcome = Outcome("failed", None, "source_deleted", "a document that it was answered from was deleted meanwhile: ask again")
    body = None if outcome.result is None else to_json(outcome.result)
    if not end(connection, current(job.id, job.attempt), outcome, result=None if job.kind == "chat" else body):
        return False
    if job.kind == "chat" and body is not None:
        connection.execute(_ANSWER, {"tenant": job.tenant, "job_id": job.id, "attempt": job.attempt, "body": body})
    return True


def end(connection: Connection, condition: ColumnElement[bool], outcome: Outcome, *, result: str | None = None) -> bool:
    """Put a terminal state on the row that the condition names."""
    given = {"new_state": outcome.state, "code": outcome.error_code, "message": outcome.error_message, "body": result}
    return bool(connection.execute(_END.where(condition), given).rowcount)


def retry_later(connection: Connection, job: Job, delay: float, error_code: str, error_message: str) -> bool:
    """Give the job back after a failed try; its next run is due after the delay (seconds), at the front."""
    said = {"tries": jobs.c.tries + 1, "run_at": now() + delay, "error_code": error_code, "error_message": error_message}
    return bool(connection.execute(update(jobs).where(current(job.id, job.attempt)).values(_REQUEUED | said)).rowcount)


def hand_back(connection: Connection, owner: str) -> list[Ring]:
    """Give back everything that a process holds, for it is about to end in good order: no death is counted."""
    return _fronts(connection, update(jobs).where(jobs.c.owner == owner, _RUNNING).values(_REQUEUED | {"run_at": now()}))


def release(connection: Connection, condition: ColumnElement[bool]) -> int:
    """End the leases that the condition names as deaths.

    A death of a shared process proves nothing about a job: the first costs it no time, the next ones 1, 2, 4, 8, then 15 s.
    """
    pause = case(*((jobs.c.deaths == deaths, seconds) for deaths, seconds in enumerate((0.0, 1.0, 2.0, 4.0, 8.0))), else_=15.0)
    values = _REQUEUED | {"deaths": jobs.c.deaths + 1, "run_at": now() + pause}
    return connection.execute(update(jobs).where(_RUNNING, condition).values(values)).rowcount


def release_owner(connection: Connection, owner: str) -> int:
    """End the leases of a process whose death its supervisor saw."""
    return release(connection, jobs.c.owner == owner)


def release_dead(connection: Connection) -> int:
    """End the leases that ran out."""
    return release(connection, jobs.c.lease_until < now())


def any_dead(connection: Connection) -> bool:
    """Say whether a lease ran out: lets the usual look be a read."""
    return _any(connection, _RUNNING, jobs.c.lease_until < now())


def unrung(connection: Connection) -> bool:
    """Say whether a due job waits for its first ring."""
    return _any(connection, _QUEUED, jobs.c.rung_at.is_(None), jobs.c.run_at <= now())


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
    return _rerung(connection, old, limit) if _any(connection, _QUEUED, old) else []


def _any(connection: Connection, *conditions: ColumnElement[bool]) -> bool:
    return connection.execute(select(jobs.c.id).where(*conditions).limit(1)).first() is not None


def _rerung(connection: Connection, condition: ColumnElement[bool], limit: int) -> list[Ring]:
    chosen = select(jobs.c.id).where(_QUEUED, condition).order_by(jobs.c.place, jobs.c.created_at).limit(limit)
    return _fronts(connection, update(jobs).where(jobs.c.id.in_(chosen), _QUEUED).values(rung_at=now()))


def _fronts(connection: Connection, query: Any) -> list[Ring]:
    return [Ring(row.id, row.lane, "", 0.0, front=True) for row in connection.execute(query.returning(jobs.c.id, jobs.c.lane))]


def request_cancel(connection: Connection, tenant: str, job_id: str) -> Job | None:
    """Flag a job; one that still waits ends at once. Returns the job as it then is."""
    mine = _one(tenant, job_id)
    connection.execute(update(jobs).where(mine, jobs.c.state.not_in(ENDED)).values(cancel_requested=True))
    end(connection, and_(mine, _QUEUED, jobs.c.attempt == 0), Outcome("cancelled"))
    return get(connection, tenant, job_id)


def overdue(connection: Connection, grace: float) -> list[Job]:
    """Return jobs that nobody works on and that must end: cancelled, or past their deadline (by `grace` while they run)."""
    waits = and_(_QUEUED, or_(jobs.c.cancel_requested == true(), jobs.c.deadline_at < now()))
    condition = or_(waits, and_(_RUNNING, jobs.c.deadline_at < now() - grace))
    return [_job(row) for row in connection.execute(_JOBS.where(jobs.c.state.in_(("queued", "running")), condition).limit(500))]


def bury(connection: Connection, job: Job, outcome: Outcome) -> int | None:
    """End a job over the head of its worker: a new attempt that nobody runs. Returns it, None when the job went on meanwhile.

    The caller fences the log with the new attempt first, so that nothing is appended after the terminal event.
    """
    if not end(connection, and_(jobs.c.id == job.id, jobs.c.attempt == job.attempt, jobs.c.state == job.state), outcome):
        return None
    connection.execute(update(jobs).where(jobs.c.id == job.id).values(attempt=jobs.c.attempt + 1))
    return job.attempt + 1


def states(connection: Connection, job_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return (state, attempt) of these jobs in one query."""
    query = select(jobs.c.id, jobs.c.state, jobs.c.attempt).where(jobs.c.id.in_(_values(job_ids)))
    return {row.id: (row.state, row.attempt) for row in connection.execute(query)}


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
    ended = delete(jobs).where(jobs.c.tenant == tenant, jobs.c.id.in_(job_ids), jobs.c.state.in_(ENDED))
    gone = list(connection.execute(ended.returning(jobs.c.id)).scalars())
    for table in (answers, quotes, idempotency):
        connection.execute(delete(table).where(table.c.tenant == tenant, table.c.job_id.in_(gone)))
    connection.execute(delete(events).where(events.c.job_id.in_(gone)))
    return len(gone)


def expired(connection: Connection, age: float, limit: int, with_log: bool = False) -> list[tuple[str, str]]:
    """Return (tenant, job id) of jobs that ended more than `age` seconds ago; `with_log`: that still have a log in SQL."""
    query = select(jobs.c.tenant, jobs.c.id).where(jobs.c.ended_at < now() - age).order_by(jobs.c.ended_at).limit(limit)
    if with_log:
        query = query.where(select(events.c.seq).where(events.c.job_id == jobs.c.id).exists())
    return [(row.tenant, row.id) for row in connection.execute(query)]


def forget_keys(connection: Connection, age: float) -> int:
    """Drop Idempotency-Keys older than `age` seconds."""
    return connection.execute(delete(idempotency).where(idempotency.c.created_at < now() - age)).rowcount

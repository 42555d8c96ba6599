"""The rows of jobs: every step of a job's life is one conditional statement; deaths are counted in `release` alone."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    text,
    true,
    tuple_,
    update,
)

from ragqueue.records.schema import answers, events, jobs, quotes
from ragqueue.records.store import NOW, to_json
from ragqueue.types import ENDED, Job, Outcome, Ring, lane_of

OVERTAKINGS = 20  # claims of jobs rung later that prove a ring lost; one proves nothing (1,400 surplus rings of 1,500)
_COLUMNS = [jobs.c[name] for name in Job._fields]
_QUEUED, _RUNNING = jobs.c.state == "queued", jobs.c.state == "running"
_DUE, _UNRUNG = and_(_QUEUED, jobs.c.run_at <= NOW), jobs.c.rung_at.is_(None)
_GIVEN = jobs.c.id.in_(select(func.json_each(bindparam("ids")).table_valued("value").c.value))
_REQUEUED = {"state": "queued", "place": 0.0, "rung_at": None, "owner": None, "lease_until": None}
_FRESH = {
    "state": "queued",
    "attempt": 0,
    "tries": 0,
    "deaths": 0,
    "cancel_requested": False,
    "deadline_at": NOW + bindparam("deadline"),
}
_HELD = {
    "attempt": jobs.c.attempt + 1,
    "lease_until": NOW + bindparam("lease"),
    "started_at": func.coalesce(jobs.c.started_at, NOW),
}
# These are run for each job, and to build one takes as long as to run it. What is given under a column's name is set, too.
_NEW = (
    insert(jobs)
    .values(_FRESH | dict.fromkeys(("place", "run_at", "rung_at", "created_at"), NOW))
    .returning(*_COLUMNS)
)
_CLAIM = (
    update(jobs).where(jobs.c.id == bindparam("wanted"), _DUE).values(_HELD).returning(*_COLUMNS)
)
_END = update(jobs).values(ended_at=NOW, owner=None, lease_until=None)
_ANSWER = insert(answers).values(created_at=NOW)
_SHOWN_DELETED = text("""
    select 1 from quotes q join documents d on d.tenant = q.tenant and d.id = q.document_id
    where q.tenant = :tenant and q.job_id = :job_id and d.state = 'deleted' limit 1""")


def insert_job(
    connection: Connection,
    tenant: str,
    job_id: str,
    kind: str,
    payload: Mapping[str, Any],
    deadline: float,
    retry_of: str | None = None,
    idempotency: str | None = None,
) -> Job:
    """Add a queued job that is due now and counts as rung now: its submitter rings after the commit. `deadline`: seconds from now."""
    new = {
        "tenant": tenant,
        "id": job_id,
        "kind": kind,
        "lane": lane_of(kind),
        "payload": payload,
        "deadline": deadline,
    }
    about = {
        "retry_of": retry_of,
        "idempotency": idempotency,
        "document_id": payload.get("document_id"),
    }
    return Job(*connection.execute(_NEW, new | about).one())


def _only(connection: Connection, query: Any, given: Mapping[str, Any] | None = None) -> Job | None:
    row = connection.execute(query, given).first()
    return Job(*row) if row else None


def get(connection: Connection, tenant: str, job_id: str) -> Job | None:
    """Return the tenant's job."""
    return _only(connection, select(*_COLUMNS).where(jobs.c.tenant == tenant, jobs.c.id == job_id))


def by_key(connection: Connection, tenant: str, idempotency: str) -> Job | None:
    """Return the job that was made under this key."""
    return _only(connection, select(*_COLUMNS).filter_by(tenant=tenant, idempotency=idempotency))


def listed(
    connection: Connection,
    tenant: str,
    *,
    state: str | None,
    kind: str | None,
    after: tuple[float, str] | None,
    limit: int,
) -> list[Job]:
    """Return the tenant's newest jobs; `after`, the (created_at, id) of a job, goes on behind it."""
    wanted = {
        name: value for name, value in (("state", state), ("kind", kind)) if value is not None
    }
    query = select(*_COLUMNS).filter_by(tenant=tenant, **wanted)
    place = tuple_(jobs.c.created_at, jobs.c.id)
    if after is not None:
        query = query.where(place < tuple_(*after))
    rows = connection.execute(
        query.order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)
    )
    return [Job(*row) for row in rows]


def waiting(connection: Connection, tenant: str, lane: str) -> tuple[int, int]:
    """Return how many jobs of the lane wait: of all tenants, and of this one."""
    query = select(func.count(), func.count().filter(jobs.c.tenant == tenant)).select_from(jobs)
    return connection.execute(query.where(_QUEUED, jobs.c.lane == lane)).one()


def ended_since(connection: Connection, lane: str, seconds: float) -> int:
    """Return how many jobs of the lane ended in the last seconds."""
    return connection.execute(
        select(func.count()).where(jobs.c.ended_at > NOW - seconds, jobs.c.lane == lane)
    ).scalar_one()


def due(connection: Connection, lane: str, limit: int) -> list[str]:
    """Return the ids of claimable jobs in the order of their places."""
    return list(
        connection.scalars(
            select(jobs.c.id).where(_DUE, jobs.c.lane == lane).order_by(jobs.c.place).limit(limit)
        )
    )


def claim(
    connection: Connection, job_id: str, owner: str, stamp: float, lease: float
) -> Job | None:
    """Take a queued and due job for a new attempt; None when another was faster, or it is not due."""
    held = {"state": "running", "owner": owner, "claimed_stamp": stamp or None}
    return _only(connection, _CLAIM, held | {"wanted": job_id, "lease": lease})


def renew(connection: Connection, owner: str, held: Sequence[str], lease: float) -> dict[str, int]:
    """Extend a process's leases on the jobs that it says it holds; return {job id: attempt} of those it still has."""
    query = (
        update(jobs).where(jobs.c.owner == owner, _RUNNING, _GIVEN).values(lease_until=NOW + lease)
    )
    return dict(
        connection.execute(query.returning(jobs.c.id, jobs.c.attempt), {"ids": to_json(held)}).all()
    )


def cancels(connection: Connection, owner: str) -> list[str]:
    """Return the process's running jobs that somebody wants to cancel."""
    return list(
        connection.scalars(
            select(jobs.c.id).where(
                jobs.c.owner == owner, _RUNNING, jobs.c.cancel_requested == true()
            )
        )
    )


def current(job_id: str, attempt: int) -> ColumnElement[bool]:
    """Return the condition under which a run may write: it is still the job's current one."""
    return and_(jobs.c.id == job_id, jobs.c.attempt == attempt, _RUNNING)


def finish(connection: Connection, job: Job, outcome: Outcome) -> bool:
    """End the job with this outcome, and store a chat's answer; False when the run is not the current one."""
    is_chat, key = job.kind == "chat", {"tenant": job.tenant, "job_id": job.id}
    if is_chat and connection.execute(_SHOWN_DELETED, key).first():
        outcome = Outcome(
            "failed",
            None,
            "source_deleted",
            "a document that it was answered from was deleted meanwhile: ask again",
        )
    ended = outcome._replace(result=None) if is_chat else outcome
    if not connection.execute(_END.where(current(job.id, job.attempt)), ended._asdict()).rowcount:
        return False
    if is_chat and outcome.result is not None:
        connection.execute(_ANSWER, key | {"attempt": job.attempt, "body": outcome.result})
    return True


def bury(connection: Connection, job: Job, outcome: Outcome) -> bool:
    """End a job over its worker's head, as the next attempt, with which the caller has fenced the log; False when it went on."""
    as_seen = _END.filter_by(id=job.id, attempt=job.attempt, state=job.state).values(
        attempt=job.attempt + 1
    )
    return bool(connection.execute(as_seen, outcome._asdict()).rowcount)


def retry_later(
    connection: Connection, job: Job, delay: float, error_code: str, error_message: str
) -> bool:
    """Give the job back after a failed try; its next run is due after the delay (seconds), at the front."""
    said = {
        "tries": jobs.c.tries + 1,
        "run_at": NOW + delay,
        "error_code": error_code,
        "error_message": error_message,
    }
    return bool(
        connection.execute(
            update(jobs).where(current(job.id, job.attempt)).values(_REQUEUED | said)
        ).rowcount
    )


def release(connection: Connection, owner: str | None = None, died: bool = True) -> list[Ring]:
    """End the leases of a process, or those that ran out, and return rings for their jobs, at the front."""
    # A death of a shared process proves nothing about a job: it is delayed, from the second one on.
    pause = case({0: 0.0, 1: 1.0, 2: 2.0, 3: 4.0, 4: 8.0}, value=jobs.c.deaths, else_=15.0)
    values = {"deaths": jobs.c.deaths + 1, "run_at": NOW + pause} if died else {"run_at": NOW}
    whose = jobs.c.lease_until < NOW if owner is None else jobs.c.owner == owner
    return _fronts(connection, update(jobs).where(_RUNNING, whose).values(_REQUEUED | values))


def _fronts(connection: Connection, query: Any) -> list[Ring]:
    return [
        Ring(row.id, row.lane, "", 0.0, front=True)
        for row in connection.execute(query.returning(jobs.c.id, jobs.c.lane))
    ]


def neglected(connection: Connection) -> tuple[bool, bool]:
    """Say whether a lease ran out, and whether a due job waits for its first ring: lets the usual look be a read."""
    dead = select(jobs.c.id).where(_RUNNING, jobs.c.lease_until < NOW).exists()
    unrung = select(jobs.c.id).where(_DUE, _UNRUNG).exists()
    return connection.execute(select(dead, unrung)).one()


def ring_due(
    connection: Connection, which: ColumnElement[bool] = _UNRUNG, limit: int = 10_000
) -> list[Ring]:
    """Mark due jobs, by default those that were never rung, as rung now; the caller rings them, at the front."""
    chosen = (
        select(jobs.c.id).where(_DUE, which).order_by(jobs.c.place, jobs.c.created_at).limit(limit)
    )
    return _fronts(connection, update(jobs).where(jobs.c.id.in_(chosen)).values(rung_at=NOW))


def ring_lost(
    connection: Connection, lane: str, empty: bool, age: float, looked: float
) -> list[Ring]:
    """Like `ring_due`, for jobs rung `age` seconds before the look at the queue (monotonic), if it was empty or `OVERTAKINGS` rung later were claimed."""
    old = and_(
        jobs.c.lane == lane, jobs.c.rung_at < NOW - (age + time.monotonic() - looked)
    )  # this write may have waited behind many
    if not empty:
        claimed = (
            select(jobs.c.claimed_stamp)
            .where(jobs.c.lane == lane, jobs.c.claimed_stamp.is_not(None))
            .correlate(None)
        )
        last = claimed.order_by(jobs.c.claimed_stamp.desc()).limit(1).offset(OVERTAKINGS - 1)
        old = and_(old, jobs.c.rung_at < last.scalar_subquery())
    return ring_due(connection, old, 2_000)


def request_cancel(connection: Connection, tenant: str, job_id: str) -> Job | None:
    """Flag a job that has not ended, and return it as it then is."""
    flag = or_(jobs.c.cancel_requested, jobs.c.state.not_in(ENDED))
    mine = update(jobs).filter_by(tenant=tenant, id=job_id).values(cancel_requested=flag)
    return _only(connection, mine.returning(*_COLUMNS))


def overdue(connection: Connection, grace: float) -> list[Job]:
    """Return jobs that nobody works on and that must end: cancelled, or past their deadline (by `grace` while they run)."""
    waits = and_(_QUEUED, or_(jobs.c.cancel_requested == true(), jobs.c.deadline_at < NOW))
    runs = and_(_RUNNING, jobs.c.deadline_at < NOW - grace)
    return [
        Job(*row)
        for row in connection.execute(
            select(*_COLUMNS).where(or_(_QUEUED, _RUNNING), or_(waits, runs)).limit(500)
        )
    ]


def states(connection: Connection, job_ids: Sequence[str]) -> dict[str, str]:
    """Return the state of these jobs in one query."""
    return dict(
        connection.execute(
            select(jobs.c.id, jobs.c.state).where(_GIVEN), {"ids": to_json(job_ids)}
        ).all()
    )


def answer(connection: Connection, tenant: str, job_id: str) -> dict[str, Any] | None:
    """Return the stored answer of a chat job."""
    return connection.scalar(select(answers.c.body).filter_by(tenant=tenant, job_id=job_id))


def erase(connection: Connection, tenant: str, job_ids: Sequence[str]) -> int:
    """Erase ended jobs with their answers, events and what refers to them; return how many jobs went."""
    ended = delete(jobs).where(
        jobs.c.tenant == tenant, jobs.c.id.in_(job_ids), jobs.c.state.in_(ENDED)
    )
    gone = connection.scalars(ended.returning(jobs.c.id)).all()
    for table in (answers, quotes):
        connection.execute(delete(table).where(table.c.tenant == tenant, table.c.job_id.in_(gone)))
    connection.execute(delete(events).where(events.c.job_id.in_(gone)))
    return len(gone)


def expired(connection: Connection, age: float, limit: int) -> list[tuple[str, str]]:
    """Return (tenant, job id) of jobs that ended more than `age` seconds ago."""
    query = (
        select(jobs.c.tenant, jobs.c.id)
        .where(jobs.c.ended_at < NOW - age)
        .order_by(jobs.c.ended_at)
    )
    return list(connection.execute(query.limit(limit)))


_LOGGED = text(f"""
    select id from jobs where log_dropped = 0 and attempt > 0 and ended_at < {NOW} - :age order by ended_at limit :limit""")
_LOG_DROPPED = text(
    "update jobs set log_dropped = 1 where id in (select value from json_each(:ids))"
)
_FENCED = text("""
    select j.id, j.attempt from quotes q join jobs j on j.id = q.job_id
    where q.tenant = :tenant and q.document_id = :document_id and j.attempt > 0 and j.log_dropped = 0""")
# The states stand as literals, for the partial index; a document's id is one of all tenants.
_TOUCHING = text("""
    select j.tenant, j.id, j.cancel_requested from jobs j where j.state in ('queued', 'running') and (
        (j.document_id = :document_id and j.kind = 'ingest')
        or exists (select 1 from quotes q where q.tenant = :tenant and q.document_id = :document_id and q.job_id = j.id))""")
_ABOUT = select(jobs.c.id, jobs.c.payload, jobs.c.error_message).where(jobs.c.kind == "ingest")
_PRIVATE = ("source", "sha256")  # of the payload of an ingest: what tells of the document itself


def logged(connection: Connection, age: float, limit: int) -> list[str]:
    """Return the ids of jobs that ended more than `age` seconds ago and may still have a log."""
    return list(connection.scalars(_LOGGED, {"age": age, "limit": limit}))


def note_logs_dropped(connection: Connection, job_ids: Sequence[str]) -> None:
    """Note that these jobs have no log any more."""
    connection.execute(_LOG_DROPPED, {"ids": to_json(job_ids)})


def is_current(connection: Connection, job_id: str, attempt: int) -> bool:
    """Say whether a run is still the job's current one."""
    return connection.execute(select(jobs.c.id).where(current(job_id, attempt))).first() is not None


def quoting(connection: Connection, tenant: str, document_id: str) -> list[tuple[str, int]]:
    """Return (job id, attempt) of the jobs that were shown passages of a document and may have a log."""
    return list(connection.execute(_FENCED, {"tenant": tenant, "document_id": document_id}))


def touching(connection: Connection, tenant: str, document_id: str) -> list[tuple[str, str, bool]]:
    """Return (tenant, job id, cancel requested) of the living jobs that read a document or were shown passages of it."""
    return list(connection.execute(_TOUCHING, {"tenant": tenant, "document_id": document_id}))


def forget_document(connection: Connection, tenant: str, document_id: str) -> int:
    """Take the name and hash of an erased document out of the jobs that read it; return how many there were."""
    rows = connection.execute(_ABOUT.filter_by(tenant=tenant, document_id=document_id)).all()
    for row in rows:
        values: dict[str, Any] = {"payload": row.payload | dict.fromkeys(_PRIVATE, "")}
        if row.error_message is not None:
            values["error_message"] = "the document was deleted"
        connection.execute(update(jobs).where(jobs.c.id == row.id).values(values))
    return len(rows)

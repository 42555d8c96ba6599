"""The rows of jobs: every step of a job's life is one conditional statement.

The states stand as literals in the statements, so that the planner takes the partial indexes.
Deaths are counted in `release` alone.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, TextClause

from ragqueue.records.statements import as_list, from_json, sql, to_json
from ragqueue.types import Job, Outcome, Ring, lane_of

# Claims of jobs rung later that prove a ring lost; one proves nothing (1,400 surplus rings of
# 1,500).
OVERTAKINGS = 20

_COLUMNS = """
    tenant, id, kind, lane, state, payload, attempt, tries, deaths, run_at, deadline_at,
    created_at, started_at, ended_at, owner, cancel_requested, result, error_code, error_message,
    retry_of, {now} as read_at"""

_INSERT = sql(f"""
    insert into jobs (
        tenant, id, kind, lane, state, payload, attempt, tries, deaths, cancel_requested,
        place, run_at, rung_at, created_at, deadline_at, retry_of, idempotency, document_id)
    values (
        :tenant, :id, :kind, :lane, 'queued', :payload, 0, 0, 0, false,
        {{now}}, {{now}}, {{now}}, {{now}}, {{now}} + :deadline,
        :retry_of, :idempotency, :document_id)
    returning {_COLUMNS}""")

_GET = sql(f"select {_COLUMNS} from jobs where tenant = :tenant and id = :id")

_BY_KEY = sql(f"""
    select {_COLUMNS} from jobs where tenant = :tenant and idempotency = :idempotency""")

_CLAIM = sql(f"""
    update jobs
    set state = 'running', attempt = attempt + 1, owner = :owner, claimed_stamp = :stamp,
        lease_until = {{now}} + :lease, started_at = coalesce(started_at, {{now}})
    where id = :id and state = 'queued' and run_at <= {{now}}
    returning {_COLUMNS}""")

_RENEW = sql("""
    update jobs set lease_until = {now} + :lease
    where owner = :owner and state = 'running' and id in {list:ids}
    returning id, attempt""")

_CANCELS = sql("""
    select id from jobs where owner = :owner and state = 'running' and cancel_requested""")

# A run writes only while it is the job's current one: this is the fence of the row.
_CURRENT = "id = :id and attempt = :attempt and state = 'running'"

_IS_CURRENT = sql(f"select 1 from jobs where {_CURRENT}")

_FINISH = sql(f"""
    update jobs
    set state = :state, result = :result, error_code = :error_code, error_message = :error_message,
        ended_at = {{now}}, owner = null, lease_until = null
    where {_CURRENT}""")

_ANSWER = sql("""
    insert into answers (tenant, job_id, attempt, body, created_at)
    values (:tenant, :job_id, :attempt, :body, {now})""")

_SHOWN_DELETED = sql("""
    select 1 from quotes q
    join documents d on d.tenant = q.tenant and d.id = q.document_id
    where q.tenant = :tenant and q.job_id = :job_id and d.state = 'deleted'
    limit 1""")

_BURY = sql("""
    update jobs
    set state = :state, result = :result, error_code = :error_code, error_message = :error_message,
        attempt = attempt + 1, ended_at = {now}, owner = null, lease_until = null
    where id = :id and attempt = :attempt and state = :seen""")

_RETRY = sql(f"""
    update jobs
    set state = 'queued', tries = tries + 1, run_at = {{now}} + :delay, place = 0, rung_at = null,
        owner = null, lease_until = null, error_code = :error_code, error_message = :error_message
    where {_CURRENT}""")

# A death of a shared process proves nothing about a job: it is delayed, from the second one on.
_RELEASE_DEAD = """
    update jobs
    set state = 'queued', deaths = deaths + 1, place = 0, rung_at = null, owner = null,
        lease_until = null,
        run_at = {now} + case deaths
            when 0 then 0 when 1 then 1 when 2 then 2 when 3 then 4 when 4 then 8 else 15 end
    where state = 'running' and """

_RELEASE_EXPIRED = sql(f"{_RELEASE_DEAD} lease_until < {{now}} returning id, lane")

_RELEASE_KILLED = sql(f"{_RELEASE_DEAD} owner = :owner returning id, lane")

_HAND_BACK = sql("""
    update jobs
    set state = 'queued', place = 0, run_at = {now}, rung_at = null, owner = null,
        lease_until = null
    where state = 'running' and owner = :owner
    returning id, lane""")

_NEGLECTED = sql("""
    select
        exists (select 1 from jobs where state = 'running' and lease_until < {now}),
        exists (
            select 1 from jobs where state = 'queued' and rung_at is null and run_at <= {now})""")

_RING_DUE = sql("""
    update jobs set rung_at = {now}
    where id in (
        select id from jobs
        where state = 'queued' and rung_at is null and run_at <= {now}
        order by run_at
        limit 10000)
    returning id, lane""")

_RING_LOST = sql("""
    update jobs set rung_at = {now}
    where id in (
        select id from jobs
        where state = 'queued' and lane = :lane and rung_at < {now} - :age and run_at <= {now}
        order by rung_at
        limit 2000)
    returning id, lane""")

# A ring is lost, too, when so many that were rung later have been claimed.
_RING_OVERTAKEN = sql("""
    update jobs set rung_at = {now}
    where id in (
        select id from jobs
        where state = 'queued' and lane = :lane and rung_at < {now} - :age and run_at <= {now}
        and rung_at < (
            select claimed_stamp from jobs
            where lane = :lane and claimed_stamp is not null
            order by claimed_stamp desc
            limit 1 offset :overtakings - 1)
        order by rung_at
        limit 2000)
    returning id, lane""")

_REQUEST_CANCEL = sql(f"""
    update jobs set cancel_requested = (cancel_requested or state in ('queued', 'running'))
    where tenant = :tenant and id = :id
    returning {_COLUMNS}""")

# What nobody works on and must end: cancelled while it waited, or past its deadline.
_OVERDUE = sql(f"""
    select {_COLUMNS} from jobs where id in (
        select id from jobs where state = 'queued' and cancel_requested = true
        union all
        select id from jobs where state = 'queued' and deadline_at < {{now}}
        union all
        select id from jobs where state = 'running' and deadline_at < {{now}} - :grace)
    limit 500""")

_DUE = sql("""
    select id from jobs
    where state = 'queued' and lane = :lane and run_at <= {now}
    order by place
    limit :limit""")

_WAITING = sql("""
    select
        cast(coalesce(sum(jobs), 0) as bigint) as of_all,
        cast(coalesce(sum(case when tenant = :tenant then jobs end), 0) as bigint) as of_tenant
    from tallies where lane = :lane and state = 'queued'""")

_ENDED_SINCE = sql("""
    select count(*) from jobs where lane = :lane and ended_at > {now} - :seconds""")

_ANNOUNCE = sql("select announce()")

_STATES = sql("select id, state from jobs where id in {list:ids}")

_ANSWER_OF = sql("select body from answers where tenant = :tenant and job_id = :job_id")


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
    """Add a queued job that is due now. `deadline`: seconds from now.

    It counts as rung now: its submitter rings after the commit.
    """
    values = {
        "tenant": tenant,
        "id": job_id,
        "kind": kind,
        "lane": lane_of(kind),
        "payload": to_json(payload),
        "deadline": deadline,
        "retry_of": retry_of,
        "idempotency": idempotency,
        "document_id": payload.get("document_id"),
    }
    return job_of(connection.execute(_INSERT, values).one())


def job_of(row: Row[Any]) -> Job:
    """Return a row of `_COLUMNS` as a job."""
    return Job(
        tenant=row.tenant,
        id=row.id,
        kind=row.kind,
        lane=row.lane,
        state=row.state,
        payload=from_json(row.payload),
        attempt=row.attempt,
        tries=row.tries,
        deaths=row.deaths,
        run_at=row.run_at,
        deadline_at=row.deadline_at,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        owner=row.owner,
        cancel_requested=bool(row.cancel_requested),
        result=from_json(row.result),
        error_code=row.error_code,
        error_message=row.error_message,
        retry_of=row.retry_of,
        read_at=row.read_at,
    )


def _first(connection: Connection, statement: TextClause, values: Mapping[str, Any]) -> Job | None:
    row = connection.execute(statement, values).first()
    return job_of(row) if row else None


def get(connection: Connection, tenant: str, job_id: str) -> Job | None:
    """Return the tenant's job."""
    return _first(connection, _GET, {"tenant": tenant, "id": job_id})


def by_key(connection: Connection, tenant: str, idempotency: str) -> Job | None:
    """Return the job that was made under this key."""
    return _first(connection, _BY_KEY, {"tenant": tenant, "idempotency": idempotency})


def listed(
    connection: Connection,
    tenant: str,
    *,
    state: str | None,
    kind: str | None,
    after: tuple[float, str] | None,
    limit: int,
) -> list[Job]:
    """Return the tenant's newest jobs;

    `after`, the (created_at, id) of a job, goes on behind it.
    """
    values: dict[str, Any] = {"tenant": tenant, "limit": limit}
    conditions = ["tenant = :tenant"]
    if state is not None:
        conditions.append("state = :state")
        values["state"] = state
    if kind is not None:
        conditions.append("kind = :kind")
        values["kind"] = kind
    if after is not None:
        conditions.append("(created_at, id) < (:created_at, :id)")
        values["created_at"], values["id"] = after
    statement = sql(f"""
        select {_COLUMNS} from jobs where {" and ".join(conditions)}
        order by created_at desc, id desc limit :limit""")
    return [job_of(row) for row in connection.execute(statement, values)]


def waiting(connection: Connection, tenant: str, lane: str) -> tuple[int, int]:
    """Return how many jobs of the lane wait: of all tenants, and of this one."""
    row = connection.execute(_WAITING, {"tenant": tenant, "lane": lane}).one()
    return row.of_all, row.of_tenant


def ended_since(connection: Connection, lane: str, seconds: float) -> int:
    """Return how many jobs of the lane ended in the last seconds."""
    values = {"lane": lane, "seconds": seconds}
    return int(connection.execute(_ENDED_SINCE, values).scalar_one())


def due(connection: Connection, lane: str, limit: int) -> list[str]:
    """Return the ids of claimable jobs in the order of their places."""
    return list(connection.scalars(_DUE, {"lane": lane, "limit": limit}))


def announce(connection: Connection) -> None:
    """Wake the workers of other processes: there are claimable jobs."""
    connection.execute(_ANNOUNCE)


def claim(
    connection: Connection, job_id: str, owner: str, stamp: float, lease: float
) -> Job | None:
    """Take a queued and due job for a new attempt; None when another was faster, or it is not due.

    `stamp`: of the ring, 0 for one at the front. `lease`: seconds.
    """
    values = {"id": job_id, "owner": owner, "stamp": stamp or None, "lease": lease}
    return _first(connection, _CLAIM, values)


def renew(
    connection: Connection, owner: str, job_ids: Sequence[str], lease: float
) -> dict[str, int]:
    """Extend a process's leases on the jobs that it says it holds.

    Returns {job id: attempt} of those it still has.
    """
    values = {"owner": owner, "ids": as_list(job_ids), "lease": lease}
    return {row.id: row.attempt for row in connection.execute(_RENEW, values)}


def cancels(connection: Connection, owner: str) -> list[str]:
    """Return the process's running jobs that somebody wants to cancel."""
    return list(connection.scalars(_CANCELS, {"owner": owner}))


def is_current(connection: Connection, job_id: str, attempt: int) -> bool:
    """Say whether a run is still the job's current one."""
    row = connection.execute(_IS_CURRENT, {"id": job_id, "attempt": attempt}).first()
    return row is not None


def finish(connection: Connection, job: Job, outcome: Outcome) -> bool:
    """End the job with this outcome, and store a chat's answer.

    Returns False when the run is not the current one. A chat that was shown a document which
    was deleted meanwhile fails.
    """
    is_chat = job.kind == "chat"
    key = {"tenant": job.tenant, "job_id": job.id}
    if is_chat and connection.execute(_SHOWN_DELETED, key).first():
        outcome = Outcome(
            state="failed",
            error_code="source_deleted",
            error_message="a document that it was answered from was deleted meanwhile: ask again",
        )
    values = _ending(job, outcome)
    if is_chat:
        values["result"] = None  # the answer has a table of its own
    if not connection.execute(_FINISH, values).rowcount:
        return False
    if is_chat and outcome.result is not None:
        body = {"attempt": job.attempt, "body": to_json(outcome.result)}
        connection.execute(_ANSWER, key | body)
    return True


def bury(connection: Connection, job: Job, outcome: Outcome) -> bool:
    """End a job over its worker's head, as the next attempt; False when it went on meanwhile.

    The caller has fenced the log with that attempt.
    """
    values = _ending(job, outcome) | {"seen": job.state}
    return bool(connection.execute(_BURY, values).rowcount)


def _ending(job: Job, outcome: Outcome) -> dict[str, Any]:
    return {
        "id": job.id,
        "attempt": job.attempt,
        "state": outcome.state,
        "result": None if outcome.result is None else to_json(outcome.result),
        "error_code": outcome.error_code,
        "error_message": outcome.error_message,
    }


def retry_later(
    connection: Connection, job: Job, delay: float, error_code: str, error_message: str
) -> bool:
    """Give the job back after a failed try; its next run is due after the delay (seconds)."""
    values = {
        "id": job.id,
        "attempt": job.attempt,
        "delay": delay,
        "error_code": error_code,
        "error_message": error_message,
    }
    return bool(connection.execute(_RETRY, values).rowcount)


def release(connection: Connection, owner: str | None = None) -> list[Ring]:
    """End the leases that ran out, or those of a process that died; return rings for their jobs."""
    if owner is None:
        return _fronts(connection, _RELEASE_EXPIRED, {})
    return _fronts(connection, _RELEASE_KILLED, {"owner": owner})


def hand_back(connection: Connection, owner: str) -> list[Ring]:
    """Give back what a process that ends in good order still holds; return rings for the jobs."""
    return _fronts(connection, _HAND_BACK, {"owner": owner})


def _fronts(connection: Connection, statement: TextClause, values: Mapping[str, Any]) -> list[Ring]:
    rows = connection.execute(statement, values)
    return [Ring(job_id=row.id, lane=row.lane, database="", stamp=0.0, front=True) for row in rows]


def neglected(connection: Connection) -> tuple[bool, bool]:
    """Say whether a lease ran out, and whether a due job waits for its first ring.

    It lets the usual look be a read.
    """
    dead, unrung = connection.execute(_NEGLECTED).one()
    return bool(dead), bool(unrung)


def ring_due(connection: Connection) -> list[Ring]:
    """Mark due jobs that were never rung as rung now; the caller rings them, at the front."""
    return _fronts(connection, _RING_DUE, {})


def ring_lost(
    connection: Connection, lane: str, *, empty: bool, age: float, looked: float
) -> list[Ring]:
    """Like `ring_due`, for jobs whose ring must be lost.

    They were rung `age` seconds before the look at the queue (`looked`, monotonic), and it was
    `empty`, or `OVERTAKINGS` that were rung later have been claimed.
    """
    passed = time.monotonic() - looked  # this write may have waited behind many
    values: dict[str, Any] = {"lane": lane, "age": age + passed}
    if empty:
        return _fronts(connection, _RING_LOST, values)
    return _fronts(connection, _RING_OVERTAKEN, values | {"overtakings": OVERTAKINGS})


def request_cancel(connection: Connection, tenant: str, job_id: str) -> Job | None:
    """Flag a job that has not ended, and return it as it then is."""
    return _first(connection, _REQUEST_CANCEL, {"tenant": tenant, "id": job_id})


def overdue(connection: Connection, grace: float) -> list[Job]:
    """Return at most 500 jobs that nobody works on and that must end.

    They are cancelled, or past their deadline (by `grace` seconds while they run).
    """
    return [job_of(row) for row in connection.execute(_OVERDUE, {"grace": grace})]


def states(connection: Connection, job_ids: Sequence[str]) -> dict[str, str]:
    """Return the state of these jobs in one query."""
    rows = connection.execute(_STATES, {"ids": as_list(job_ids)})
    return {row.id: row.state for row in rows}


def answer(connection: Connection, tenant: str, job_id: str) -> dict[str, Any] | None:
    """Return the stored answer of a chat job."""
    body = connection.scalar(_ANSWER_OF, {"tenant": tenant, "job_id": job_id})
    found: dict[str, Any] | None = from_json(body)
    return found

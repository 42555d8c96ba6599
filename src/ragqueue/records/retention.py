"""What becomes of jobs after their end: their logs are dropped, then they are erased."""

from collections.abc import Sequence

from sqlalchemy import Connection

from ragqueue.records.statements import as_list, sql

_LOGGED = sql("""
    select id from jobs
    where not log_dropped and attempt > 0 and ended_at <= {now} - :age
    order by ended_at
    limit :limit""")

_LOG_DROPPED = sql("update jobs set log_dropped = true where id in {list:ids}")

_EXPIRED = sql("""
    select tenant, id from jobs where ended_at <= {now} - :age order by ended_at limit :limit""")

_ERASE = sql("""
    delete from jobs
    where tenant = :tenant and id in {list:ids} and state in ('succeeded', 'failed', 'cancelled')
    returning id""")

_ERASE_ANSWERS = sql("delete from answers where tenant = :tenant and job_id in {list:ids}")

_ERASE_QUOTES = sql("delete from quotes where tenant = :tenant and job_id in {list:ids}")

_ERASE_EVENTS = sql("delete from events where job_id in {list:ids}")


def logged(connection: Connection, age: float, limit: int) -> list[str]:
    """Return the ids of jobs that ended more than `age` seconds ago and may still have a log."""
    return list(connection.scalars(_LOGGED, {"age": age, "limit": limit}))


def note_logs_dropped(connection: Connection, job_ids: Sequence[str]) -> None:
    """Note that these jobs have no log any more."""
    connection.execute(_LOG_DROPPED, {"ids": as_list(job_ids)})


def expired(connection: Connection, age: float, limit: int) -> list[tuple[str, str]]:
    """Return (tenant, job id) of jobs that ended more than `age` seconds ago."""
    rows = connection.execute(_EXPIRED, {"age": age, "limit": limit})
    return [(row.tenant, row.id) for row in rows]


def erase(connection: Connection, tenant: str, job_ids: Sequence[str]) -> int:
    """Erase ended jobs with their answers, events and what refers to them; return how many went."""
    gone = connection.scalars(_ERASE, {"tenant": tenant, "ids": as_list(job_ids)}).all()
    values = {"tenant": tenant, "ids": as_list(gone)}
    connection.execute(_ERASE_ANSWERS, values)
    connection.execute(_ERASE_QUOTES, values)
    connection.execute(_ERASE_EVENTS, {"ids": values["ids"]})
    return len(gone)

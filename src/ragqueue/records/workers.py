"""The processes that work: who they are, when they last beat, and what they counted."""

from collections.abc import Mapping
from os import getpid
from socket import gethostname
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, select, text

from ragqueue.records.schema import counters, jobs, workers
from ragqueue.records.store import NOW

_BEAT = text(f"""
    insert into workers (owner, host, pid, lanes, started_at, beat_at, running) values (:owner, :host, :pid, :lanes, {NOW}, {NOW}, :running)
    on conflict (owner) do update set beat_at = excluded.beat_at, running = excluded.running""")
_COUNT = text("""
    insert into counters (name, labels, value) values (:name, :labels, :delta)
    on conflict (name, labels) do update set value = counters.value + excluded.value""")


class Gauge(NamedTuple):
    """The state of the jobs at one moment."""

    states: dict[tuple[str, str], int]  # (lane, state) -> jobs
    oldest: dict[str, float]  # lane -> seconds that its longest waiting job has waited
    sums: dict[tuple[str, str], float]  # (name, labels as JSON) -> what all processes counted
    totals: dict[str, int]  # of all jobs, and how many processes work


def beat(
    connection: Connection,
    owner: str,
    lanes: str,
    running: int,
    deltas: Mapping[tuple[str, str], float],
) -> None:
    """Say that a process lives, and add what it counted since its last beat, by (name, labels as JSON)."""
    connection.execute(
        _BEAT,
        {
            "owner": owner,
            "host": gethostname(),
            "pid": getpid(),
            "lanes": lanes,
            "running": running,
        },
    )
    if deltas:
        connection.execute(
            _COUNT,
            [
                {"name": name, "labels": labels, "delta": delta}
                for (name, labels), delta in deltas.items()
            ],
        )


def leave(connection: Connection, owner: str) -> None:
    """Take a process that ends in good order out of the table."""
    connection.execute(delete(workers).where(workers.c.owner == owner))


def forget(connection: Connection, age: float) -> None:
    """Drop processes that have not beaten for `age` seconds."""
    connection.execute(delete(workers).where(workers.c.beat_at < NOW - age))


def alive(connection: Connection, age: float) -> list[dict[str, Any]]:
    """Return the processes that beat in the last `age` seconds: owner, host, pid, lanes, running, age (seconds since its last beat)."""
    columns = (workers.c[name] for name in ("owner", "host", "pid", "lanes", "running"))
    query = select(*columns, (NOW - workers.c.beat_at).label("age")).where(
        workers.c.beat_at > NOW - age
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def gauge(connection: Connection, age: float) -> Gauge:
    """Return what /metrics and `status` show of all tenants together; a process works that beat in the last `age` seconds."""
    counted = select(jobs.c.lane, jobs.c.state, func.count()).group_by(jobs.c.lane, jobs.c.state)
    waiting = select(jobs.c.lane, NOW - func.min(jobs.c.run_at)).where(
        jobs.c.state == "queued", jobs.c.run_at <= NOW
    )
    dead = func.count().filter(jobs.c.state == "failed", jobs.c.error_code == "dead_letter")
    beating = select(func.count()).where(workers.c.beat_at > NOW - age).scalar_subquery()
    sums = (
        func.coalesce(func.sum(jobs.c[name]), 0).label(f"job_{name}")
        for name in ("deaths", "tries")
    )
    totals = select(*sums, dead.label("dead_letters"), beating.label("workers"))
    return Gauge(
        {(lane, state): count for lane, state, count in connection.execute(counted)},
        {
            lane: float(seconds)
            for lane, seconds in connection.execute(waiting.group_by(jobs.c.lane))
        },
        {(row.name, row.labels): row.value for row in connection.execute(select(counters))},
        dict(connection.execute(totals).mappings().one()),
    )

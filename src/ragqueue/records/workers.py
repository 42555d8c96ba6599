"""The processes that work: who they are, when they last beat, and what they counted."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, and_, case, delete, func, select, update

from ragqueue.records.schema import counters, jobs, workers
from ragqueue.records.store import now


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One process that works."""

    owner: str
    host: str
    pid: int
    lanes: str
    running: int
    age: float  # seconds since its last beat


@dataclass(frozen=True, slots=True)
class Gauge:
    """The state of the jobs at one moment."""

    states: dict[tuple[str, str], int]  # (lane, state) -> jobs
    oldest: dict[str, float]  # lane -> seconds that its longest waiting job has waited
    dead_letters: int
    deaths: int
    tries: int
    workers: int


def beat(connection: Connection, owner: str, host: str, pid: int, lanes: str, running: int) -> None:
    """Say that a process lives."""
    if not connection.execute(update(workers).where(workers.c.owner == owner).values(beat_at=now(), running=running)).rowcount:
        row = {"owner": owner, "host": host, "pid": pid, "lanes": lanes, "started_at": now(), "beat_at": now(), "running": running}
        connection.execute(workers.insert().values(row))


def leave(connection: Connection, owner: str) -> None:
    """Take a process that ends in good order out of the table."""
    connection.execute(delete(workers).where(workers.c.owner == owner))


def forget(connection: Connection, age: float) -> None:
    """Drop processes that have not beaten for `age` seconds."""
    connection.execute(delete(workers).where(workers.c.beat_at < now() - age))


def alive(connection: Connection, age: float) -> list[WorkerRow]:
    """Return the processes that beat in the last `age` seconds."""
    query = select(workers, (now() - workers.c.beat_at).label("age")).where(workers.c.beat_at > now() - age)
    return [WorkerRow(row.owner, row.host, row.pid, row.lanes, row.running, row.age) for row in connection.execute(query)]


def count(connection: Connection, deltas: Mapping[tuple[str, str], float]) -> None:
    """Add what a process counted since its last beat, by (name, labels as JSON)."""
    for (name, labels), delta in deltas.items():
        mine = and_(counters.c.name == name, counters.c.labels == labels)
        if not connection.execute(update(counters).where(mine).values(value=counters.c.value + delta)).rowcount:
            connection.execute(counters.insert(), {"name": name, "labels": labels, "value": delta})


def counted(connection: Connection) -> dict[tuple[str, str], float]:
    """Return the sums of all processes."""
    return {(row.name, row.labels): row.value for row in connection.execute(select(counters))}


def gauge(connection: Connection, age: float) -> Gauge:
    """Return what /metrics and `status` show of all tenants together."""
    counted = select(jobs.c.lane, jobs.c.state, func.count()).group_by(jobs.c.lane, jobs.c.state)
    waiting = select(jobs.c.lane, now() - func.min(jobs.c.run_at)).where(jobs.c.state == "queued", jobs.c.run_at <= now())
    dead = case((and_(jobs.c.state == "failed", jobs.c.error_code == "dead_letter"), 1), else_=0)
    sums = [func.coalesce(func.sum(what), 0) for what in (dead, jobs.c.deaths, jobs.c.tries)]
    dead_letters, deaths, tries = map(int, connection.execute(select(*sums)).one())
    return Gauge(
        {(lane, state): count for lane, state, count in connection.execute(counted)},
        {lane: float(seconds) for lane, seconds in connection.execute(waiting.group_by(jobs.c.lane))},
        dead_letters,
        deaths,
        tries,
        len(alive(connection, age)),
    )

"""The processes that work: who they are, when they last beat, and what they counted."""

from collections.abc import Mapping
from os import getpid
from socket import gethostname
from typing import Any

from sqlalchemy import Connection

from ragqueue.records.statements import sql

_BEAT = sql("""
    insert into workers (owner, host, pid, lanes, started_at, beat_at, running)
    values (:owner, :host, :pid, :lanes, {now}, {now}, :running)
    on conflict (owner) do update set beat_at = excluded.beat_at, running = excluded.running""")

_COUNT = sql("""
    insert into counters (name, labels, value) values (:name, :labels, :delta)
    on conflict (name, labels) do update set value = counters.value + excluded.value""")

_LEAVE = sql("delete from workers where owner = :owner")

_FORGET = sql("delete from workers where beat_at < {now} - :age")

_ALIVE = sql("""
    select owner, host, pid, lanes, running, {now} - beat_at as age from workers
    where beat_at > {now} - :age""")


def beat(
    connection: Connection,
    owner: str,
    lanes: str,
    running: int,
    deltas: Mapping[tuple[str, str], float],
) -> None:
    """Say that a process lives;

    `deltas`: what it counted since its last, by (name, labels as JSON).
    """
    process = {
        "owner": owner,
        "host": gethostname(),
        "pid": getpid(),
        "lanes": lanes,
        "running": running,
    }
    connection.execute(_BEAT, process)
    if deltas:
        counts = [
            {"name": name, "labels": labels, "delta": delta}
            for (name, labels), delta in deltas.items()
        ]
        connection.execute(_COUNT, counts)


def leave(connection: Connection, owner: str) -> None:
    """Take a process that ends in good order out of the table."""
    connection.execute(_LEAVE, {"owner": owner})


def forget(connection: Connection, age: float) -> None:
    """Drop processes that have not beaten for `age` seconds."""
    connection.execute(_FORGET, {"age": age})


def alive(connection: Connection, age: float) -> list[dict[str, Any]]:
    """Return the processes that beat in the last `age` seconds.

    Each is {owner, host, pid, lanes, running, age (seconds since its last beat)}.
    """
    return [dict(row) for row in connection.execute(_ALIVE, {"age": age}).mappings()]

"""Watch a run from inside its database: triggers note every write to the log and every change of a row, in order.

An ordinary look at the tables afterwards cannot tell in what order a log was written, nor that a row ended twice.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaigns.faults.auditor import GONE, Entry, Move
from ragqueue.records.store import sqlite_module

_NOW = "(julianday('now') - 2440587.5) * 86400.0"
_NOTE = f"insert into witness_moves (job_id, state, attempt, owner, deaths, at) values (new.id, new.state, new.attempt, new.owner, new.deaths, {_NOW})"
_TRIGGERS = f"""
create table witness_log (n integer primary key, job_id text, seq integer, type text);
create table witness_moves (n integer primary key, job_id text, state text, attempt integer, owner text, deaths integer, at real);
create table witness_workers (owner text, pid integer, at real);
create trigger witness_written after insert on events begin
  insert into witness_log (job_id, seq, type) values (new.job_id, new.seq, new.type); end;
create trigger witness_erased after delete on events begin
  insert into witness_log (job_id, seq, type) values (old.job_id, old.seq, '{GONE}'); end;
create trigger witness_submitted after insert on jobs when new.kind = 'chat' begin {_NOTE}; end;
create trigger witness_moved after update of state on jobs when new.kind = 'chat' begin {_NOTE}; end;
create trigger witness_started after insert on workers begin
  insert into witness_workers values (new.owner, new.pid, {_NOW}); end;
"""


@dataclass(frozen=True, slots=True)
class Change(Move):
    """A change of a row with who and when (seconds since 1970)."""

    owner: str | None
    deaths: int
    at: float


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILLs at one moment."""

    at: float
    pids: Sequence[int]
    host: bool  # the supervisor, too: nobody saw the deaths


@dataclass
class Times:
    """Seconds from deaths to what followed them."""

    recovery: list[float] = field(
        default_factory=list
    )  # claimable again, a living supervisor saw the death
    recovery_host: list[float] = field(default_factory=list)
    reclaim: list[float] = field(default_factory=list)  # claimed again, for jobs with one death


class Witness:
    """Installs the triggers and tells what they noted."""

    def __init__(self, database: Path) -> None:
        self._database = database

    def install(self) -> None:
        """Put the triggers into a database that has its tables."""
        with self._open("rw") as connection:
            connection.executescript(_TRIGGERS)

    def log(self) -> list[Entry]:
        """Return the writes to the SQL log in order."""
        return [
            Entry(*row)
            for row in self._rows("select job_id, seq, type from witness_log order by n")
        ]

    def changes(self) -> list[Change]:
        """Return the changes of the rows of chat jobs in order."""
        return [
            Change(*row)
            for row in self._rows(
                "select job_id, state, attempt, owner, deaths, at from witness_moves order by n"
            )
        ]

    def loaded(self) -> dict[int, int]:
        """Return {pid: jobs that it runs now}; processes that died may be among them."""
        query = "select w.pid, count(*) from jobs j join workers w on w.owner = j.owner where j.state = 'running' and j.kind = 'chat' group by 1"
        return dict(self._rows(query))

    def times(self, kills: Sequence[Kill]) -> Times:
        """Return how long the jobs of killed processes took to come back."""
        workers = self._rows("select pid, owner, at from witness_workers")
        histories: dict[str, list[Change]] = defaultdict(list)
        worked_on: dict[str, set[str]] = defaultdict(set)  # owner -> jobs
        for change in self.changes():
            histories[change.job_id].append(change)
            worked_on[change.owner or ""].add(change.job_id)
        times = Times()
        for kill in kills:
            killed = {owner for pid, owner, at in workers if pid in kill.pids and at <= kill.at}
            for job_id in set().union(*(worked_on[owner] for owner in killed)):
                _measure(histories[job_id], kill, killed, times)
        return times

    def _rows(self, query: str) -> list[Any]:
        with self._open(
            "rw"
        ) as connection:  # a read-only one cannot make the files of the write-ahead log anew
            return list(connection.execute(query).fetchall())

    @contextmanager
    def _open(self, mode: str) -> Iterator[sqlite3.Connection]:
        connection = sqlite_module.connect(
            f"{self._database.resolve().as_uri()}?mode={mode}", uri=True, timeout=60
        )
        try:
            yield connection
        finally:
            connection.close()


def _measure(history: Iterable[Change], kill: Kill, killed: set[str], times: Times) -> None:
    """Follow one job from a kill on, if the kill hit it."""
    held = released = False
    for change in history:
        if change.at <= kill.at:
            held = change.state == "running" and change.owner in killed
        elif not held:
            return
        elif not released:
            if change.state != "queued":
                return
            released = True
            (times.recovery_host if kill.host else times.recovery).append(change.at - kill.at)
            if change.deaths != 1:  # later ones wait on purpose
                return
        else:
            if change.state == "running":
                times.reclaim.append(change.at - kill.at)
            return

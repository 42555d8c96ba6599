"""Watch a run from inside its database.

Triggers note every write to the log and every change of a row, in order. An ordinary look at the
tables afterwards cannot tell in what order a log was written, nor that a row ended twice.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from campaigns import database
from campaigns.database import Place
from campaigns.faults.evidence import GONE, Entry, Move

_NOW = "(julianday('now') - 2440587.5) * 86400.0"
_NOTE = f"""
  insert into witness_moves (job_id, state, attempt, owner, deaths, at)
  values (new.id, new.state, new.attempt, new.owner, new.deaths, {_NOW})"""
_TRIGGERS = f"""
create table witness_log (n integer primary key, job_id text, seq integer, type text);
create table witness_moves (
  n integer primary key, job_id text, state text, attempt integer, owner text, deaths integer,
  at real);
create table witness_workers (owner text, pid integer, at real);
create trigger witness_written after insert on events begin
  insert into witness_log (job_id, seq, type) values (new.job_id, new.seq, new.type); end;
create trigger witness_erased after delete on events begin
  insert into witness_log (job_id, seq, type) values (old.job_id, old.seq, '{GONE}'); end;
create trigger witness_submitted after insert on jobs when new.kind = 'chat' begin {_NOTE}; end;
create trigger witness_moved after update of state on jobs when new.kind = 'chat' begin
  {_NOTE}; end;
create trigger witness_started after insert on workers begin
  insert into witness_workers values (new.owner, new.pid, {_NOW}); end;
"""
_POSTGRES_TRIGGERS = f"""
create table witness_log (n bigserial primary key, job_id text, seq bigint, type text);
create table witness_moves (
  n bigserial primary key, job_id text, state text, attempt integer, owner text, deaths integer,
  at float8);
create table witness_workers (owner text, pid integer, at float8);
create function witness_event() returns trigger language plpgsql as $$ begin
  if tg_op = 'INSERT' then
    insert into witness_log (job_id, seq, type) values (new.job_id, new.seq, new.type);
  else
    insert into witness_log (job_id, seq, type) values (old.job_id, old.seq, '{GONE}');
  end if;
  return null; end $$;
create trigger witness_event after insert or delete on events
  for each row execute function witness_event();
create function witness_job() returns trigger language plpgsql as $$ begin
  insert into witness_moves (job_id, state, attempt, owner, deaths, at) values (
    new.id, new.state, new.attempt, new.owner, new.deaths,
    extract(epoch from clock_timestamp()));
  return null; end $$;
create trigger witness_job after insert or update of state on jobs
  for each row when (new.kind = 'chat') execute function witness_job();
create function witness_worker() returns trigger language plpgsql as $$ begin
  insert into witness_workers values (
    new.owner, new.pid, extract(epoch from clock_timestamp()));
  return null; end $$;
create trigger witness_worker after insert on workers
  for each row execute function witness_worker();
"""
_LOG = "select job_id, seq, type from witness_log order by n"
_MOVES = "select job_id, state, attempt, owner, deaths, at from witness_moves order by n"
_WORKERS = "select pid, owner, at from witness_workers"
_LOADED = """
select w.pid, count(*) from jobs j join workers w on w.owner = j.owner
where j.state = 'running' and j.kind = 'chat' group by 1"""


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

    # until the job is claimable again: where a living supervisor saw the death, where nobody did
    recovery: list[float] = field(default_factory=list)
    recovery_host: list[float] = field(default_factory=list)
    # until it is claimed again, for jobs with one death
    reclaim: list[float] = field(default_factory=list)


class Witness:
    """Installs the triggers and tells what they noted."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def install(self) -> None:
        """Put the triggers into a database that has its tables."""
        with database.opened(self._place) as connection:
            if isinstance(self._place, str):
                connection.execute(_POSTGRES_TRIGGERS)
            else:
                connection.executescript(_TRIGGERS)

    def log(self) -> list[Entry]:
        """Return the writes to the SQL log in order."""
        return [Entry(*row) for row in database.rows(self._place, _LOG)]

    def changes(self) -> list[Change]:
        """Return the changes of the rows of chat jobs in order."""
        return [Change(*row) for row in database.rows(self._place, _MOVES)]

    def loaded(self) -> dict[int, int]:
        """Return {pid: jobs that it runs now}; processes that died may be among them."""
        return dict(database.rows(self._place, _LOADED))

    def times(self, kills: Sequence[Kill]) -> Times:
        """Return how long the jobs of killed processes took to come back."""
        workers = database.rows(self._place, _WORKERS)
        histories: dict[str, list[Change]] = defaultdict(list)
        worked_on: dict[str, set[str]] = defaultdict(set)  # owner -> jobs
        for change in self.changes():
            histories[change.job_id].append(change)
            worked_on[change.owner or ""].add(change.job_id)
        times = Times()
        for kill in kills:
            killed = {owner for pid, owner, at in workers if pid in kill.pids and at <= kill.at}
            job_ids: set[str] = set()
            for owner in killed:
                job_ids |= worked_on[owner]
            for job_id in job_ids:
                _measure(histories[job_id], kill, killed, times)
        return times


def _measure(history: Iterable[Change], kill: Kill, killed: set[str], times: Times) -> None:
    """Follow a job from a kill on: if it ran there, it is released next, and then claimed again."""
    ran = False  # on a process that was killed
    later: list[Change] = []
    for change in history:
        if change.at <= kill.at:
            ran = change.state == "running" and change.owner in killed
        else:
            later.append(change)
    if not ran or not later or later[0].state != "queued":
        return
    release = later[0]
    recovery = times.recovery_host if kill.host else times.recovery
    recovery.append(release.at - kill.at)
    if release.deaths != 1:  # a job that died again waits on purpose
        return
    if len(later) > 1 and later[1].state == "running":
        times.reclaim.append(later[1].at - kill.at)

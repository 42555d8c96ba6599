"""The state of the jobs at one moment, as /metrics and `status` show it; its cost does not grow."""

from typing import NamedTuple

from sqlalchemy import Connection

from ragqueue.records.statements import sql
from ragqueue.types import LANES

_TALLIES = sql("""
    select lane, state, cast(sum(jobs) as bigint) as jobs, cast(sum(tries) as bigint) as tries,
        cast(sum(deaths) as bigint) as deaths
    from tallies group by lane, state
    having sum(jobs) <> 0""")

_OLDEST = sql("""
    select {now} - min(run_at) from jobs
    where state = 'queued' and lane = :lane and run_at <= {now}""")

_DEAD_LETTERS = sql("""
    select count(*) from jobs where state = 'failed' and error_code = 'dead_letter'""")

_WORKERS = sql("select count(*) from workers where beat_at > {now} - :age")

_COUNTERS = sql("select name, labels, value from counters")


class Gauge(NamedTuple):
    """The state of the jobs of all tenants together."""

    states: dict[tuple[str, str], int]  # (lane, state) -> jobs
    oldest: dict[str, float]  # lane -> seconds that its longest waiting job has waited
    sums: dict[tuple[str, str], float]  # (name, labels as JSON) -> what all processes counted
    totals: dict[str, int]  # of all jobs: job_deaths, job_tries, dead_letters; and workers


def gauge(connection: Connection, age: float) -> Gauge:
    """Return the state of the jobs; a process works that beat in the last `age` seconds."""
    tallies = connection.execute(_TALLIES).all()
    oldest = {}
    for lane in LANES:
        seconds = connection.scalar(_OLDEST, {"lane": lane})
        if seconds is not None:
            oldest[lane] = float(seconds)
    return Gauge(
        states={(row.lane, row.state): row.jobs for row in tallies},
        oldest=oldest,
        sums={(row.name, row.labels): row.value for row in connection.execute(_COUNTERS)},
        totals={
            "job_deaths": sum(row.deaths for row in tallies),
            "job_tries": sum(row.tries for row in tallies),
            "dead_letters": connection.execute(_DEAD_LETTERS).scalar_one(),
            "workers": connection.execute(_WORKERS, {"age": age}).scalar_one(),
        },
    )

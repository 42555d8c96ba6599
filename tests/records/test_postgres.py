"""What PostgreSQL alone does to the records: many writers at once, and a server that goes away."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from campaigns.services import PostgresServer
from ragqueue.errors import ConfigError, Unavailable
from ragqueue.events import sql as events_sql
from ragqueue.events.base import fence
from ragqueue.events.sql import SqlEventLog
from ragqueue.records import chunks, jobs
from ragqueue.records.schema import migrate, open_server, statements
from ragqueue.records.store import Records
from ragqueue.types import Append, Event, Row, Space, seq_of
from ragqueue.working.run import Run
from tests import databases
from tests.databases import open_records

SPACE = Space(tenant="acme", collection="default", generation="g")
ROW = Row(start=0, end=1, heading_path=(), page=None, tokens="x", length=1)


@pytest.fixture
async def records(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Records]:
    monkeypatch.setattr(databases, "server", postgres_server.url)
    opened = open_records(tmp_path)
    migrate(opened.engine)
    yield opened
    opened.close()


def insert(connection: Connection, job_id: str) -> None:
    jobs.insert_job(connection, "acme", job_id, "chat", {}, 600.0)


async def test_numbers_of_chunks_become_visible_in_rising_order(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_inserted = asyncio.Event()
    loop = asyncio.get_running_loop()
    add_to_sums = chunks._add_to_sums

    def slow_once(connection: Connection, *given: Any, **named: Any) -> None:
        # Behind the numbers, and before the sums, whose rows would make the other wait, too.
        if not first_inserted.is_set():
            loop.call_soon_threadsafe(first_inserted.set)
            connection.exec_driver_sql("select pg_sleep(0.3)")
        add_to_sums(connection, *given, **named)

    async def news_at_the_end(of: asyncio.Task[list[int]]) -> list[int]:
        await of
        return [int(n) for n in (await records.read(chunks.news, SPACE, 0, 0, 9)).numbers]

    monkeypatch.setattr(chunks, "_add_to_sums", slow_once)
    rows = [(ROW, b"\0\0")]
    lower = asyncio.create_task(records.write(chunks.insert, SPACE, "d", 1, "en", rows))
    await first_inserted.wait()
    higher = asyncio.create_task(records.write(chunks.insert, SPACE, "e", 1, "en", rows))

    seen = await news_at_the_end(higher)

    assert seen == [*await lower, *higher.result()]


async def test_of_two_attempts_that_append_at_once_never_both_are_granted(
    records: Records,
) -> None:
    log = SqlEventLog(records)
    for n in range(20):
        job_id = f"job{n}"
        await log.append([fence(job_id, 1)])
        old = Append(
            job_id=job_id,
            after=seq_of(1, 0),
            events=[Event(seq=seq_of(1, 1), type="delta", data={}, at=0.0)],
        )
        await asyncio.gather(log.append([old]), log.append([fence(job_id, 2)]))
        after_fence = Append(
            job_id=job_id,
            after=seq_of(1, 1),
            events=[Event(seq=seq_of(1, 2), type="delta", data={}, at=0.0)],
        )

        ends = await log.append([after_fence])

        assert ends == [seq_of(2, 0)]
        seqs = [event.seq for event in (await log.read({job_id: 0}))[job_id]]
        assert seqs == sorted(seqs)


async def append_late(log: SqlEventLog, append: Append) -> None:
    """Append as a run does whose transaction is slow between its look and its write."""

    def slow(connection: Connection) -> None:
        events_sql.write(connection, [append])
        connection.exec_driver_sql("select pg_sleep(0.2)")

    await log._records.note(slow)


@pytest.mark.parametrize("ends", ["seal", "drop"])
async def test_what_was_appended_at_the_same_moment_outlives_no_seal_and_no_drop(
    records: Records, ends: str
) -> None:
    log = SqlEventLog(records)
    await log.append([fence("job", 1)])
    event = Event(seq=seq_of(1, 1), type="delta", data={}, at=0.0)
    late = append_late(log, Append(job_id="job", after=seq_of(1, 0), events=[event]))
    appending = asyncio.create_task(late)
    await asyncio.sleep(0.05)

    if ends == "seal":
        await log.seal([fence("job", 2)])
    else:
        await log.drop(["job"])

    await appending
    left = (await log.read({"job": 0})).get("job", [])
    assert [event.seq for event in left] == ([seq_of(2, 0)] if ends == "seal" else [])


async def test_an_old_attempt_that_looks_while_a_fence_is_raised_is_refused(
    records: Records,
) -> None:
    log = SqlEventLog(records)
    await log.append([fence("job", 1)])
    event = Event(seq=seq_of(1, 1), type="delta", data={}, at=0.0)
    raising = asyncio.create_task(append_late(log, fence("job", 2)))
    await asyncio.sleep(0.05)

    ends = await log.append([Append(job_id="job", after=seq_of(1, 0), events=[event])])

    await raising
    assert ends == [seq_of(2, 0)]
    seqs = [event.seq for event in (await log.read({"job": 0}))["job"]]
    assert seqs == [seq_of(1, 0), seq_of(2, 0)]


async def test_very_many_logs_are_sealed(records: Records) -> None:
    log = SqlEventLog(records)

    await log.seal([fence(f"job{n}", 2) for n in range(40_000)])

    assert len(await log.read({"job39999": 0})) == 1


async def test_the_clock_of_a_worker_does_not_matter(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    await records.write(insert, "job")
    monkeypatch.setattr(time, "time", lambda: 4e9)

    job = await records.write(jobs.claim, "job", "w", 0.0, 60.0)

    assert job is not None
    run = Run(job, cast(Any, None))
    assert 590 < run.seconds_left <= 600
    assert 0 <= run.age < 10


async def test_jobs_of_many_writers_are_all_counted(records: Records) -> None:
    await asyncio.gather(*(records.write(insert, f"job{n}") for n in range(100)))
    await asyncio.gather(*(records.write(jobs.claim, f"job{n}", "w", 0.0, 60.0) for n in range(40)))

    assert await records.read(jobs.waiting, "acme", "chat") == (60, 60)
    await records.note(records.database.upkeep.merge_tallies)
    assert await records.read(jobs.waiting, "acme", "chat") == (60, 60)
    rows = await records.read(
        lambda c: c.exec_driver_sql("select count(*) from tallies").scalar_one()
    )
    assert rows == 2


async def test_a_transaction_that_met_another_runs_again(records: Records) -> None:
    tries = 0

    def meets(connection: Connection) -> int:
        nonlocal tries
        tries += 1
        if tries < 3:
            connection.exec_driver_sql(
                "do $$ begin raise exception 'met' using errcode = '40P01'; end $$"
            )
        return tries

    assert await records.write(meets) == 3


async def test_what_meets_others_without_end_is_unavailable(records: Records) -> None:
    def meets(connection: Connection) -> None:
        connection.exec_driver_sql(
            "do $$ begin raise exception 'met' using errcode = '40001'; end $$"
        )

    with pytest.raises(Unavailable, match="the database cannot be used now: met"):
        await records.write(meets)


async def test_records_outlive_a_restart_of_their_server(tmp_path: Path) -> None:
    with PostgresServer() as server:
        records = open_server(server.url)
        migrate(records.engine)
        session = records.session()
        try:
            await asyncio.gather(*(records.write(insert, f"a{n}") for n in range(8)))
            session.read(jobs.cancels, "w")
            server.kill()
            for use in (records.read(jobs.due, "chat", 9), records.write(insert, "lost")):
                with pytest.raises(Unavailable, match="cannot be used now"):
                    await use
            with pytest.raises(OperationalError):
                session.read(jobs.cancels, "w")

            server.start()

            await asyncio.gather(*(records.write(insert, f"b{n}") for n in range(8)))
            assert len(await records.read(jobs.due, "chat", 99)) == 16
            assert session.read(jobs.cancels, "w") == []
        finally:
            session.close()
            records.close()


async def test_a_ring_of_another_process_is_heard(records: Records, tmp_path: Path) -> None:
    watching = records.watch()
    while not next(watching):  # its own first connection is news
        await asyncio.sleep(0.01)
    other = open_records(tmp_path)
    try:
        await other.note(jobs.announce)

        async with asyncio.timeout(5):
            while not next(watching):
                await asyncio.sleep(0.01)
    finally:
        watching.close()
        other.close()


@pytest.mark.parametrize("query", ["schema=A", "schema=a'b", "schema=a&schema=b"])
def test_a_schema_that_is_no_name_gets_one_line(query: str) -> None:
    with pytest.raises(ConfigError, match="the schema of RAGQUEUE_DATABASE_URL is "):
        open_server(f"postgresql://h/db?{query}")


async def test_tallies_that_are_merged_are_not_written_again(records: Records) -> None:
    await records.write(insert, "job")
    await records.note(records.database.upkeep.merge_tallies)
    where = "select ctid::text from tallies"
    merged = await records.read(lambda c: c.exec_driver_sql(where).scalars().all())

    await records.note(records.database.upkeep.merge_tallies)

    assert await records.read(lambda c: c.exec_driver_sql(where).scalars().all()) == merged


def test_every_migration_since_has_a_text_for_each_database(tmp_path: Path) -> None:
    assert statements(tmp_path / "0005_old.py", "postgresql") == []
    with pytest.raises(FileNotFoundError):
        statements(tmp_path / "0006_new.py", "postgresql")


@pytest.mark.parametrize("url", ["postgresql//x", "postgresql://h:port/db", "mysql://h/db"])
def test_a_url_that_is_none_of_a_server_gets_one_line(url: str) -> None:
    with pytest.raises(ConfigError, match=r"RAGQUEUE_DATABASE_URL is .*: it must look like"):
        open_server(url)

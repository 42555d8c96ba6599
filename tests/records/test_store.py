"""The store: groups of writes, failures that undo their own work only, and the clock."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, inspect, select
from sqlalchemy.exc import OperationalError

from ragqueue.errors import ConfigError, StoreFull, Unavailable
from ragqueue.records.schema import migrate, open_records
from ragqueue.records.sqlite import is_safe
from ragqueue.records.statements import NOW
from ragqueue.records.store import Records
from tests import tables


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[Records]:
    opened = open_records(tmp_path)
    migrate(opened.engine)
    yield opened
    opened.close()


def put(connection: Connection, name: str) -> None:
    connection.exec_driver_sql("insert into facts (name, value) values (?, 'x')", (name,))


def names(connection: Connection) -> set[str]:
    return set(connection.exec_driver_sql("select name from facts where name <> 'uuid'").scalars())


async def test_a_failing_write_undoes_its_own_work_only(records: Records) -> None:
    def fails(connection: Connection) -> None:
        put(connection, "bad")
        raise ValueError("no")

    results = await asyncio.gather(
        records.write(put, "a"),
        records.write(fails),
        records.write(put, "b"),
        records.note(put, "c"),
        return_exceptions=True,
    )

    assert isinstance(results[1], ValueError)
    assert await records.read(names) == {"a", "b", "c"}


async def test_a_write_that_fails_alone_leaves_nothing(records: Records) -> None:
    def fails(connection: Connection) -> None:
        put(connection, "bad")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await records.write(fails)

    assert await records.read(names) == set()


async def test_many_writes_at_once_all_arrive(records: Records) -> None:
    await asyncio.gather(*(records.write(put, str(n)) for n in range(500)))

    assert len(await records.read(names)) == 500


async def test_promised_work_is_synced_and_notes_are_not(records: Records) -> None:
    def level(connection: Connection) -> int:
        return int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())

    assert (await records.write(level), await records.note(level)) == (2, 1)


async def test_the_clock_is_in_seconds_since_1970(records: Records) -> None:
    there = await records.read(lambda connection: connection.execute(select(NOW)).scalar_one())

    assert abs(there - time.time()) < 5


async def test_a_full_disk_refuses_and_works_again_with_room(records: Records) -> None:
    pages = await records.read(
        lambda connection: connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    )

    def fill(connection: Connection) -> None:
        connection.exec_driver_sql(
            "insert into facts (name, value) values ('big', ?)", ("x" * 10_000_000,)
        )

    await records.write(put, "before")
    await records.note(
        lambda connection: connection.exec_driver_sql(
            f"PRAGMA max_page_count={pages + 20}"
        ).scalar_one()
    )
    with pytest.raises(StoreFull, match="free some space"):
        await records.write(fill)
    await records.note(
        lambda connection: connection.exec_driver_sql("PRAGMA max_page_count=1000000").scalar_one()
    )
    await records.write(put, "after")

    assert await records.read(names) == {"before", "after"}


async def test_a_watch_notices_commits_of_others(records: Records) -> None:
    commits = records.watch()
    next(commits)
    assert not next(commits)

    await records.note(put, "a")

    assert next(commits)
    commits.close()


def test_the_migrations_make_what_the_tests_write_into(tmp_path: Path) -> None:
    records = open_records(tmp_path)
    migrate(records.engine)
    made = inspect(records.engine)
    expected = {name: set(table.c.keys()) for name, table in tables.METADATA.tables.items()}

    columns = {name: {column["name"] for column in made.get_columns(name)} for name in expected}

    records.close()
    assert columns == expected


def test_a_database_keeps_its_uuid(tmp_path: Path) -> None:
    records = open_records(tmp_path)

    assert migrate(records.engine) == migrate(records.engine)
    records.close()


def test_processes_that_make_the_file_at_the_same_moment_wait_for_each_other(
    tmp_path: Path,
) -> None:
    def start(folder: Path) -> str:
        records = open_records(folder)
        try:
            return migrate(records.engine)
        finally:
            records.close()

    with ThreadPoolExecutor(4) as threads:
        for round_ in range(5):
            folder = tmp_path / str(round_)
            assert len(set(threads.map(start, [folder] * 4))) == 1


def test_chunks_that_nobody_is_shown_are_known_after_an_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = open_records(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("ragqueue.records.schema.HEAD", "0003")
        migrate(records.engine)
    with sqlite3.connect(tmp_path / "records.sqlite3") as connection:
        connection.execute(
            "insert into documents (tenant, id, collection, source, media_type, title, version,"
            " state, sha256, language, chunks, created_at, updated_at)"
            " values ('t', 'd', 'c', 'd.md', '', '', 2, 'ready', '', '', 1, 0, 0)"
        )
        connection.executemany(
            "insert into chunks (tenant, collection, generation, document_id, version, start,"
            ' "end", heading_path, language, tokens, length)'
            " values ('t', 'c', 'g', 'd', ?, 0, 1, '[]', 'en', 'x', 1)",
            [(-5,), (1,), (2,), (2,)],
        )

    migrate(records.engine)

    with sqlite3.connect(tmp_path / "records.sqlite3") as connection:
        assert connection.execute("select reading from documents").fetchall() == [(2,)]
        unseen = connection.execute("select reading, replaced from readings order by reading")
        assert unseen.fetchall() == [(-5, 0), (1, 1)]
    records.close()


def test_files_of_an_older_database_are_kept_in_one_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = open_records(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("ragqueue.records.schema.HEAD", "0004")
        migrate(records.engine)
    with sqlite3.connect(tmp_path / "records.sqlite3") as connection:
        connection.execute("insert into uploads values ('t', 'u', 'd', x'0102', 7)")

    migrate(records.engine)

    with sqlite3.connect(tmp_path / "records.sqlite3") as connection:
        assert connection.execute("select * from uploads").fetchall() == [("t", "u", "d", 7.0)]
        assert connection.execute("select * from upload_parts").fetchall() == [
            ("t", "u", 0, b"\x01\x02")
        ]
        connection.execute("delete from uploads")
        assert connection.execute("select * from upload_parts").fetchall() == []
    records.close()


def test_a_data_folder_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    records = open_records(tmp_path)
    migrate(records.engine)
    with sqlite3.connect(tmp_path / "records.sqlite3") as connection:
        connection.execute("update alembic_version set version_num = '9999'")

    with pytest.raises(ConfigError, match="9999") as refused:
        migrate(records.engine)
    assert refused.value.code == "database_too_new"
    records.close()


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 50, 7), True),
        ((3, 44, 6), True),
        ((3, 44, 5), False),
    ],
)
def test_sqlites_that_can_corrupt_a_shared_file_are_known(
    version: tuple[int, ...], safe: bool
) -> None:
    assert is_safe(version) is safe


async def test_a_thread_that_cannot_connect_tells_its_callers_and_works_once_it_can(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "data"
    records = open_records(folder)
    migrate(records.engine)
    records.engine.dispose()
    folder.rename(tmp_path / "away")
    try:
        for use in (records.read, records.write):
            with pytest.raises(Unavailable, match="unable to open"):
                await asyncio.wait_for(use(names), 5)

        (tmp_path / "away").rename(folder)

        assert await asyncio.wait_for(records.read(names), 5) == set()
        await asyncio.wait_for(records.write(put, "a"), 5)
    finally:
        records.close()


async def test_a_wrong_statement_in_a_group_fails_alone(records: Records) -> None:
    def wrong(connection: Connection) -> None:
        connection.exec_driver_sql("select * from no_such_table")

    replies = await asyncio.gather(
        *(records.write(put, str(n)) for n in range(20)),
        records.write(wrong),
        return_exceptions=True,
    )

    assert [type(reply) for reply in replies if reply is not None] == [OperationalError]
    assert len(await records.read(names)) == 20


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%41", "a&b=c", "s p'a\"ce", "ü漢", "file:x"])
async def test_a_data_folder_may_have_any_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    records = open_records(Path(name))
    migrate(records.engine)
    records.close()

    assert (tmp_path / name / "records.sqlite3").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


async def test_a_database_of_the_first_revision_is_brought_up_with_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = open_records(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("ragqueue.records.schema.HEAD", "0001")
        migrate(records.engine)

    def fill(connection: Connection) -> None:
        for job_id, kind, payload in (("a", "chat", "{}"), ("b", "ingest", '{"document_id": "d"}')):
            connection.exec_driver_sql(
                "insert into jobs (tenant, id, kind, lane, state, payload, attempt, tries, deaths,"
                " place, run_at, deadline_at, cancel_requested, created_at)"
                " values ('t', ?, ?, 'x', 'failed', ?, 1, 0, 0, 0, 0, 0, 0, 0)",
                (job_id, kind, payload),
            )

    await records.write(fill)
    uuid = migrate(records.engine)

    assert migrate(records.engine) == uuid
    rows = await records.read(
        lambda c: c.exec_driver_sql("select id, document_id, log_dropped from jobs").all()
    )
    assert [tuple(row) for row in rows] == [("a", None, 0), ("b", "d", 0)]
    records.close()

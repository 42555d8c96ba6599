"""A backup is one state of the database, taken while everybody works, and put back whole."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ragqueue.embedded import Ragqueue
from ragqueue.errors import ConfigError
from ragqueue.records.backup import backup, restore
from ragqueue.records.schema import migrate, open_records

TEXT = "# Lease\n\nA lease lasts ten seconds.\n"


def settings_of(folder: Path) -> dict[str, object]:
    return {
        "data": folder / "data",
        "vector_db_path": folder / "vectors",
        "embedder": "none",
        "queue": "sql",
        "drain": 0.0,
    }


@pytest.fixture
async def ragqueue(tmp_path: Path) -> AsyncIterator[Ragqueue]:
    async with Ragqueue(settings=settings_of(tmp_path)) as opened:
        yield opened


async def test_what_is_restored_answers_like_what_was_backed_up(
    ragqueue: Ragqueue, tmp_path: Path
) -> None:
    await ragqueue.store("a.md", TEXT.encode())
    asked = await ragqueue.ask("How long does a lease last?")
    engine = ragqueue.runtime.records.engine

    size = await asyncio.to_thread(backup, engine, tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "elsewhere" / "data")

    assert size == (tmp_path / "copy").stat().st_size
    async with Ragqueue(settings=settings_of(tmp_path / "elsewhere")) as again:
        answer = await again.ask("How long does a lease last?")
        assert answer.text == asked.text
        assert answer.citations[0].quote == asked.citations[0].quote
        assert again.runtime.database == ragqueue.runtime.database


async def test_a_backup_is_taken_while_others_write(ragqueue: Ragqueue, tmp_path: Path) -> None:
    engine = ragqueue.runtime.records.engine
    storing = [ragqueue.store(f"{n}.md", TEXT.encode()) for n in range(10)]

    await asyncio.gather(*storing, asyncio.to_thread(backup, engine, tmp_path / "copy"))

    restore(tmp_path / "copy", tmp_path / "elsewhere")
    records = open_records(tmp_path / "elsewhere")
    assert migrate(records.engine) == ragqueue.runtime.database
    records.close()


async def test_what_was_erased_stands_in_no_backup(ragqueue: Ragqueue, tmp_path: Path) -> None:
    job = await ragqueue.store("a.md", b"# Canary\n\nThe canary sings.\n")
    assert job is not None
    await ragqueue.delete(job.payload["document_id"])

    await asyncio.to_thread(backup, ragqueue.runtime.records.engine, tmp_path / "copy")

    assert b"canary" not in (tmp_path / "copy").read_bytes().lower()


async def test_nothing_that_is_there_is_overwritten(ragqueue: Ragqueue, tmp_path: Path) -> None:
    engine = ragqueue.runtime.records.engine
    (tmp_path / "mine").write_text("mine")

    with pytest.raises(ConfigError, match="exists: name a file that does not"):
        backup(engine, tmp_path / "mine")
    backup(engine, tmp_path / "copy")
    with pytest.raises(ConfigError, match=r"records\.sqlite3' exists: end every process"):
        restore(tmp_path / "copy", tmp_path / "data")

    assert (tmp_path / "mine").read_text() == "mine"


async def test_what_is_no_whole_backup_is_not_restored(ragqueue: Ragqueue, tmp_path: Path) -> None:
    await ragqueue.store("a.md", TEXT.encode())
    backup(ragqueue.runtime.records.engine, tmp_path / "copy")
    whole = (tmp_path / "copy").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text").write_text("no database at all, but a text that is long enough")

    for name, reason in (("cut", "damaged|no backup"), ("text", "no backup"), ("none", "no file")):
        with pytest.raises(ConfigError, match=reason):
            restore(tmp_path / name, tmp_path / "elsewhere")

    assert not (tmp_path / "elsewhere").exists()


async def test_no_log_of_another_database_is_left_beside_what_is_restored(
    ragqueue: Ragqueue, tmp_path: Path
) -> None:
    backup(ragqueue.runtime.records.engine, tmp_path / "copy")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "records.sqlite3-wal").write_bytes(b"left")

    with pytest.raises(ConfigError, match=r"records\.sqlite3-wal' exists: end every process"):
        restore(tmp_path / "copy", tmp_path / "elsewhere")


async def test_a_copy_that_breaks_off_leaves_none(
    ragqueue: Ragqueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copies" / "copy"
    copy.parent.mkdir()
    backup(ragqueue.runtime.records.engine, copy)

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ragqueue.records.backup._sync", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        backup(ragqueue.runtime.records.engine, copy.with_name("second"))
    with pytest.raises(ConfigError, match="No space left on device"):
        restore(copy, tmp_path / "elsewhere")

    assert list(copy.parent.iterdir()) == [copy]
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_a_folder_that_cannot_be_written_gets_one_line(
    ragqueue: Ragqueue, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no-such-folder"):
        backup(ragqueue.runtime.records.engine, tmp_path / "no-such-folder" / "copy")

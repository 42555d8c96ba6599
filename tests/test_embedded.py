"""The door for Python works by itself where nobody else does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection

from ragqueue.embedded import Ragqueue
from ragqueue.errors import Unavailable
from ragqueue.records import workers
from ragqueue.records.schema import migrate, open_records

TEXT = b"# Lease\n\nA lease lasts ten seconds.\n"


def beat_of_a_dead(connection: Connection) -> None:
    workers.beat(connection, "dead", "chat,background", 0, {})


def beat_of_one_lane(connection: Connection) -> None:
    workers.beat(connection, "other", "chat", 0, {})


@pytest.mark.parametrize("beat", [beat_of_a_dead, beat_of_one_lane])
async def test_who_beat_last_but_does_not_work_is_not_waited_for(
    tmp_path: Path, beat: Callable[[Connection], None]
) -> None:
    records = open_records(tmp_path / "data")
    migrate(records.engine)
    await records.write(beat)
    records.close()
    settings = {
        "data": tmp_path / "data",
        "vector_db_path": tmp_path / "vectors",
        "embedder": "none",
        "queue": "sql",
        "lease": 1.0,
        "beat": 0.3,
        "drain": 0.0,
    }

    async with asyncio.timeout(30), Ragqueue(settings=settings) as ragqueue:
        await ragqueue.store("a.md", TEXT)
        answer = await ragqueue.ask("How long does a lease last?")

    assert "ten seconds" in answer.text


@pytest.fixture
async def ragqueue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ragqueue]:
    """A door in whose process nobody works, for another one seems to."""
    monkeypatch.setattr("ragqueue.embedded.LOOK_FOR", 60.0)
    records = open_records(tmp_path / "data")
    migrate(records.engine)
    await records.write(beat_of_a_dead)
    records.close()
    settings = {"data": tmp_path / "data", "vector_db_path": tmp_path / "v", "embedder": "none"}
    async with Ragqueue(settings=settings | {"queue": "sql", "drain": 0.0}) as opened:
        yield opened


async def test_nobody_begins_to_work_in_a_process_that_is_closing(
    ragqueue: Ragqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def closes_meanwhile() -> int:
        ragqueue._works = True  # as `__aexit__` does first
        return 0

    began: list[str] = []
    monkeypatch.setattr(ragqueue, "workers", closes_meanwhile)
    monkeypatch.setattr(ragqueue.runtime, "working", lambda: began.append("work"))

    await ragqueue._work_if_nobody_does()

    assert began == []


async def test_records_that_are_away_are_no_surprise_to_a_look(
    ragqueue: Ragqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> int:
        raise Unavailable("the database cannot be used now")

    monkeypatch.setattr(ragqueue, "workers", away)

    await ragqueue._take_over()

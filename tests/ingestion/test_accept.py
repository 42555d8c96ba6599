"""Files that come in: their bytes are kept in parts, and none are left of what was refused."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from ragqueue.embedded import Ragqueue
from ragqueue.errors import QueueFull, StoreFull, Unavailable
from ragqueue.records import documents, uploads
from tests.tables import upload_parts
from tests.tables import uploads as uploads_table

TENANT = "default"
TEXT = "# Lease\n\nA lease lasts ten seconds, and a heartbeat renews it every three.\n"


@pytest.fixture
async def ragqueue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ragqueue]:
    monkeypatch.setattr("ragqueue.ingestion.accept.PART", 10)
    settings = {
        "data": tmp_path / "data",
        "vector_db_path": tmp_path / "vectors",
        "embedder": "none",
        "queue": "sql",
        "drain": 0.0,
    }
    async with Ragqueue(settings=settings) as opened:
        yield opened


async def parts_of(ragqueue: Ragqueue) -> list[int]:
    """Return the sizes of all parts that are stored."""

    def sizes(connection: Connection) -> list[int]:
        rows = connection.execute(select(upload_parts.c.data).order_by(upload_parts.c.n))
        return [len(row.data) for row in rows]

    return await ragqueue.runtime.records.read(sizes)


async def accept(ragqueue: Ragqueue, source: str = "a.md") -> Any:
    return await ragqueue.runtime.acceptor.accept(TENANT, TEXT.encode(), source=source)


async def test_a_file_is_kept_in_parts_and_read_whole(ragqueue: Ragqueue) -> None:
    job = await ragqueue.store("a.md", TEXT.encode())

    assert job is not None
    assert job.state == "succeeded"
    assert await parts_of(ragqueue) == [10] * (len(TEXT) // 10) + [len(TEXT) % 10]
    assert (await ragqueue.search("heartbeat"))[0].chunk.text.endswith("every three.")


async def test_a_file_whose_parts_go_while_it_is_read_is_not_stored_in_part(
    ragqueue: Ragqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = uploads.part

    def goes_in_between(connection: Connection, tenant: str, upload_id: str, n: int) -> Any:
        if n == 5:
            connection.execute(uploads_table.delete())
        return part(connection, tenant, upload_id, n)

    monkeypatch.setattr(uploads, "part", goes_in_between)

    job = await ragqueue.store("a.md", TEXT.encode())

    assert job is not None
    assert (job.state, job.error_code) == ("failed", "not_found")
    assert await ragqueue.search("lease") == []


@pytest.mark.parametrize("error", [StoreFull("full"), Unavailable("away")])
async def test_nothing_is_left_of_a_file_that_could_not_be_kept(
    ragqueue: Ragqueue, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    add_part = uploads.add_part

    def fails(connection: Connection, tenant: str, upload_id: str, n: int, data: bytes) -> bool:
        if n == 3:
            raise error
        return add_part(connection, tenant, upload_id, n, data)

    monkeypatch.setattr(uploads, "add_part", fails)

    with pytest.raises(type(error)):
        await accept(ragqueue)

    assert await parts_of(ragqueue) == []


async def test_no_byte_is_written_for_a_file_that_has_no_room_in_the_queue(
    ragqueue: Ragqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(tenant: str, kind: str) -> None:
        raise QueueFull("many wait", retry_after=1)

    begun: list[str] = []
    monkeypatch.setattr(ragqueue.runtime.submitter, "check_room", full)
    monkeypatch.setattr(uploads, "begin", lambda *given: begun.append("a.md"))

    with pytest.raises(QueueFull):
        await accept(ragqueue)

    assert begun == []


async def test_nothing_is_left_of_a_file_whose_sender_went_away(
    ragqueue: Ragqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = asyncio.Event()

    async def waits(*_: Any, **__: Any) -> None:
        submit.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(ragqueue.runtime.submitter, "submit", waits)
    task = asyncio.create_task(accept(ragqueue))
    await submit.wait()
    assert await parts_of(ragqueue) != []

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await parts_of(ragqueue) == []


async def test_a_file_that_broke_off_is_forgotten_after_an_hour(ragqueue: Ragqueue) -> None:
    records = ragqueue.runtime.records
    await records.write(uploads.begin, TENANT, "u", b"half")

    await ragqueue.runtime.reconciler.tidy()
    assert await parts_of(ragqueue) == [4]
    await records.write(lambda c: c.execute(uploads_table.update().values(created_at=0)))
    await ragqueue.runtime.reconciler.tidy()

    assert await parts_of(ragqueue) == []


async def test_a_file_that_was_given_up_meanwhile_is_refused(
    ragqueue: Ragqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "take", lambda *_: False)

    with pytest.raises(Unavailable, match=r"'a\.md' took too long to come in: send it again"):
        await accept(ragqueue)

    assert await parts_of(ragqueue) == []
    document = await ragqueue.runtime.records.read(documents.by_source, TENANT, "default", "a.md")
    assert document is None

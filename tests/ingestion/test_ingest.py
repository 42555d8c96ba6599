"""A document comes in a few rows at a time, and is switched to at the end."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from ragqueue.embedded import Ragqueue
from ragqueue.errors import Unavailable
from ragqueue.records import chunks, documents, erasures, readings
from ragqueue.types import Job, Reading, Row, Space

TENANT = "default"
SPACE = Space(tenant=TENANT, collection="default", generation="keywords")
PARTS = "\n\n".join(
    f"# Part {n}\n\n" + f"Word{n} says something about leases. " * 40 for n in range(7)
)
STAGED = Row(start=0, end=4, heading_path=(), page=None, tokens="canary", length=1)


@pytest.fixture
async def ragqueue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ragqueue]:
    monkeypatch.setattr("ragqueue.ingestion.ingest.ROWS_AT_ONCE", 2)
    settings = {
        "data": tmp_path / "data",
        "vector_db_path": tmp_path / "vectors",
        "embedder": "none",
        "queue": "sql",
        "drain": 0.0,
    }
    async with Ragqueue(settings=settings) as opened:
        yield opened


async def rows_of(ragqueue: Ragqueue) -> dict[int, int]:
    """Return {version: chunks}; 0 stands for what is not shown."""

    def count(connection: Connection) -> Any:
        statement = """
            select coalesce(d.version, 0) as shown, count(*) from chunks c
            left join documents d
                on d.tenant = c.tenant and d.id = c.document_id and d.reading = c.reading
            group by shown"""
        return dict(connection.exec_driver_sql(statement).all())

    counted: dict[int, int] = await ragqueue.runtime.records.read(count)
    return counted


async def stage_alone(ragqueue: Ragqueue, document_id: str) -> None:
    """Stage a row that no run will show."""
    records = ragqueue.runtime.records
    await records.write(readings.begin, TENANT, document_id, 5)
    await records.write(chunks.insert, SPACE, document_id, 5, "en", [(STAGED, None)])


async def store(ragqueue: Ragqueue, text: str) -> Job:
    job = await ragqueue.store("a.md", text.encode())
    assert job is not None
    assert job.result is not None
    return job


async def test_rows_that_come_in_several_parts_are_one_version(ragqueue: Ragqueue) -> None:
    job = await store(ragqueue, PARTS)

    assert job.result is not None
    assert job.result["chunks"] > 4
    assert await rows_of(ragqueue) == {1: job.result["chunks"]}
    assert all([await ragqueue.search(f"Word{n}", limit=1) for n in range(7)])


async def test_the_rows_of_a_replaced_version_go(ragqueue: Ragqueue) -> None:
    await store(ragqueue, PARTS)

    await store(ragqueue, "# Lease\n\nA lease lasts ten seconds.\n")

    assert await rows_of(ragqueue) == {2: 1}


async def test_what_broke_off_is_shown_to_nobody_and_cleared_by_the_next_run(
    ragqueue: Ragqueue,
) -> None:
    job = await store(ragqueue, "# Lease\n\nA lease lasts ten seconds.\n")
    document_id = job.payload["document_id"]
    await stage_alone(ragqueue, document_id)

    assert await ragqueue.search("canary") == []
    await store(ragqueue, PARTS)

    assert set(await rows_of(ragqueue)) == {2}


async def test_what_nobody_works_on_any_more_is_tidied_away(ragqueue: Ragqueue) -> None:
    job = await store(ragqueue, "# Lease\n\nA lease lasts ten seconds.\n")
    document_id = job.payload["document_id"]
    await stage_alone(ragqueue, document_id)

    await ragqueue.runtime.reconciler.tidy()

    assert await rows_of(ragqueue) == {1: 1}


async def test_a_run_that_outlives_the_delete_of_its_document_leaves_nothing_of_it(
    ragqueue: Ragqueue,
) -> None:
    job = await store(ragqueue, "# Lease\n\nA lease lasts ten seconds.\n")
    records = ragqueue.runtime.records
    document = await records.read(documents.get, TENANT, job.payload["document_id"])
    assert document is not None
    await records.write(erasures.hide, "nobody", tenant=TENANT, document_id=document.id)
    reading = Reading(text="text", blocks=[], title="", pages=None, language="en", rows=[STAGED])

    with pytest.raises(Unavailable, match="was deleted while it was read"):
        await ragqueue.runtime.ingester._store(document, job, reading)

    assert 0 not in await rows_of(ragqueue)


async def test_two_runs_of_one_document_do_not_mix_their_rows(ragqueue: Ragqueue) -> None:
    job = await store(ragqueue, "# Lease\n\nA lease lasts ten seconds.\n")
    ingester = ragqueue.runtime.ingester
    document = await ragqueue.runtime.records.read(
        documents.get, TENANT, job.payload["document_id"]
    )
    assert document is not None
    rows = [
        Row(start=n, end=n + 1, heading_path=(), page=None, tokens="x", length=1) for n in range(6)
    ]
    reading = Reading(text="xxxxxx", blocks=[], title="", pages=None, language="en", rows=rows)
    stage = ingester._stage
    parts = 0

    async def other_run_clears(*given: Any) -> None:
        nonlocal parts
        parts += 1
        if parts == 3:
            await ingester._remove_stale(SPACE, document.id, job.id)
        await stage(*given)

    ingester._stage = other_run_clears  # type: ignore[method-assign]

    with pytest.raises(Unavailable, match="or read anew, while it was read"):
        await ingester._store(document, job, reading)

    assert 2 not in await rows_of(ragqueue)


async def test_a_run_that_starts_late_removes_nothing_of_what_another_switched_to(
    ragqueue: Ragqueue,
) -> None:
    job = await store(ragqueue, "# Lease\n\nA lease lasts ten seconds.\n")
    records = ragqueue.runtime.records
    stale = await records.read(documents.get, TENANT, job.payload["document_id"])
    assert stale is not None
    await store(ragqueue, PARTS)
    before = await rows_of(ragqueue)
    reading = Reading(text="text", blocks=[], title="", pages=None, language="en", rows=[STAGED])

    with pytest.raises(Unavailable, match="was changed or deleted"):
        await ragqueue.runtime.ingester._store(stale, job, reading)

    assert (await rows_of(ragqueue))[2] == before[2]


async def test_a_run_leaves_what_another_job_of_the_document_has_staged(
    ragqueue: Ragqueue,
) -> None:
    job = await store(ragqueue, "# Lease\n\nA lease lasts ten seconds.\n")
    document_id = job.payload["document_id"]
    await stage_alone(ragqueue, document_id)
    await ragqueue.runtime.records.write(_reopen, job.id)

    await store(ragqueue, PARTS)

    assert set(await rows_of(ragqueue)) == {0, 2}


def _reopen(connection: Connection, job_id: str) -> None:
    connection.exec_driver_sql("update jobs set state = 'running' where id = ?", (job_id,))

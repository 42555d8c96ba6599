"""An erasure comes to its end, whatever races with it, and then nothing of the document is left."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Connection, create_engine

from ragqueue.embedded import Ragqueue
from ragqueue.errors import Conflict, Unavailable
from ragqueue.events.pen import Batcher, Pen
from ragqueue.events.sql import SqlEventLog
from ragqueue.ingestion import erase
from ragqueue.ingestion.erase import Eraser
from ragqueue.jobs.control import cancel
from ragqueue.records import documents, erasures, jobs
from ragqueue.records.statements import positional
from ragqueue.records.store import Records
from ragqueue.types import Job, Outcome, Space
from tests.library import GENERATION, add, hide, open_records
from tests.tables import chunks

TENANT = "acme"
MANY = 40_000  # more than some builds of SQLite bind (32,766)
MANY_JOBS = """
    with recursive n(i) as (select 1 union all select i + 1 from n where i < ?)
    insert into jobs (tenant, id, kind, lane, state, payload, attempt, tries, deaths, place,
        run_at, deadline_at, cancel_requested, created_at, ended_at)
    select ?, 'many' || i, 'chat', 'chat', 'succeeded', '{}', 1, 0, 0, 0, 0, 0, false, 0, 1
    from n"""


def settings_of(folder: Path) -> dict[str, Any]:
    return {
        "data": folder / "data",
        "vector_db_path": folder / "vectors",
        "embedder": "none",
        "queue": "sql",
        "drain": 0.0,
    }


async def running(records: Records, kind: str, payload: dict[str, str]) -> Job:
    await records.write(jobs.insert_job, TENANT, kind, kind, payload, 600.0, None, None)
    job = await records.write(jobs.claim, kind, "worker", 0.0, 60.0)
    assert job is not None
    return job


async def begin(records: Records, index: Any = None) -> tuple[Eraser, Job, Job]:
    """Return an eraser, the erasure of a document, and a question that is answered from it."""
    await records.write(add, "d", "a\nb")
    question = await running(records, "chat", {"question": "?"})
    await records.write(documents.note_quotes, TENANT, question.id, ["d"])
    await records.write(hide, "d")
    eraser = Eraser(records, cast(Any, None), SqlEventLog(records), index)
    return eraser, await running(records, "delete", {"document_id": "d"}), question


async def test_an_erasure_cancels_a_question_that_the_document_answers_and_waits_for_its_end(
    tmp_path: Path,
) -> None:
    records = open_records(tmp_path)
    eraser, job, question = await begin(records)
    erasing = asyncio.create_task(eraser.run(job))
    async with asyncio.timeout(5):
        while not await asked(records, question):
            await asyncio.sleep(0)
    assert not erasing.done()

    await records.write(jobs.finish, question, Outcome(state="cancelled"))

    outcome = await asyncio.wait_for(erasing, 5)
    assert (outcome.state, (outcome.result or {})["counts"]["chunks"]) == ("succeeded", 2)
    records.close()


async def asked(records: Records, question: Job) -> bool:
    row = await records.read(jobs.get, TENANT, question.id)
    return row is not None and row.cancel_requested


async def test_an_erasure_is_tried_again_while_a_question_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erase, "LOOKS", 2)
    records = open_records(tmp_path)
    eraser, job, _ = await begin(records)

    with pytest.raises(Unavailable, match="still use"):
        await eraser.run(job)

    records.close()


async def test_an_index_of_ones_own_is_told_what_an_erasure_took(tmp_path: Path) -> None:
    told: list[tuple[Space, list[int]]] = []

    class Foreign:
        async def delete(self, space: Space, numbers: list[int]) -> None:
            told.append((space, sorted(numbers)))

        async def compact(self, space: Space) -> None:
            pass

    records = open_records(tmp_path)
    eraser, job, question = await begin(records, index=Foreign())
    rows = await records.read(lambda connection: connection.execute(chunks.select()).all())
    numbers = [row.number for row in rows]
    await records.write(jobs.finish, question, Outcome(state="cancelled"))

    await eraser.run(job)

    assert told == [(Space(tenant=TENANT, collection="default", generation=GENERATION), numbers)]
    records.close()


async def test_a_question_is_not_shown_a_document_that_was_deleted_after_it_was_found(
    tmp_path: Path,
) -> None:
    records = open_records(tmp_path)
    await records.write(add, "d", "a\nb")
    question = await running(records, "chat", {"question": "?"})
    await records.write(hide, "d")

    assert not await records.note(documents.note_quotes, TENANT, question.id, ["d", "other"])
    assert await records.read(erasures.touching, TENANT, "d") == []
    records.close()


async def cancelled_while_writing(
    records: Records, question: Job
) -> tuple[SqlEventLog, Batcher, Pen]:
    """Write the sources of an answer, end its job, and return what its run would write on with."""
    log = SqlEventLog(records)
    batcher = Batcher(log, partial(records.read, jobs.is_current))
    pen = await batcher.open(question)
    pen.write("ragqueue:sources", {"text": "a"})
    await batcher.step()
    await records.write(jobs.finish, question, Outcome(state="cancelled"))
    return log, batcher, pen


async def test_a_run_that_outlives_the_erasure_writes_nothing_more(tmp_path: Path) -> None:
    records = open_records(tmp_path)
    eraser, job, question = await begin(records)
    log, batcher, pen = await cancelled_while_writing(records, question)

    await eraser.run(job)
    pen.write("end", {})
    await batcher.step()

    assert pen.lost
    assert [event.type for event in (await log.read({question.id: 0}))[question.id]] == ["fence"]
    records.close()


async def test_a_log_that_was_dropped_after_the_end_is_not_written_again(tmp_path: Path) -> None:
    records = open_records(tmp_path)
    _, _, question = await begin(records)
    log, batcher, pen = await cancelled_while_writing(records, question)
    await log.drop([question.id])

    pen.write("end", {})
    await batcher.step()

    assert pen.lost
    assert await log.read({question.id: 0}) == {}
    records.close()


async def test_an_erasure_ends_the_reading_of_the_document_and_forgets_its_name(
    tmp_path: Path,
) -> None:
    records = open_records(tmp_path)
    eraser, job, question = await begin(records)
    await records.write(jobs.finish, question, Outcome(state="cancelled"))
    payload = {
        "document_id": "d",
        "upload_id": "u",
        "source": "Canary.pdf",
        "sha256": "feed",
        "media_type": "x",
    }
    reading = await running(records, "ingest", payload)
    erasing = asyncio.create_task(eraser.run(job))
    async with asyncio.timeout(5):
        while not await asked(records, reading):
            await asyncio.sleep(0)
    failed = Outcome(
        state="failed",
        error_code="unreadable_document",
        error_message="'Canary.pdf' cannot be read",
    )

    await records.write(jobs.finish, reading, failed)

    outcome = await asyncio.wait_for(erasing, 5)
    row = await records.read(jobs.get, TENANT, reading.id)
    assert row is not None
    assert (row.payload["source"], row.payload["sha256"]) == ("", "")
    assert row.error_message == "the document was deleted"
    assert (outcome.result or {})["counts"]["jobs"] == 1
    records.close()


@pytest.mark.parametrize("end", ["failed", "cancelled", "lost"])
async def test_a_hidden_document_is_erased_even_if_its_job_came_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr("ragqueue.jobs.reconcile.ERASE_AGAIN", -1.0)
    async with Ragqueue(settings=settings_of(tmp_path)) as ragqueue:
        runtime = ragqueue.runtime
        stored = await ragqueue.store("a.md", b"# A\n\nThe green lamp hangs above the door.\n")
        assert stored is not None
        document_id = stored.payload["document_id"]

        def hide_in_vain(connection: Connection) -> None:
            erasures.hide(connection, "vain", tenant="default", document_id=document_id)
            if end != "lost":
                job = jobs.insert_job(
                    connection, "default", "vain", "delete", {"document_id": document_id}, 600.0
                )
                jobs.bury(
                    connection,
                    job,
                    Outcome(state=cast(Any, end), error_code="x", error_message="x"),
                )

        await runtime.records.write(hide_in_vain)

        async with asyncio.timeout(10):
            while not await erased(ragqueue, document_id):
                await runtime.reconciler.erasures()
                await asyncio.sleep(0.02)


async def erased(ragqueue: Ragqueue, document_id: str) -> bool:
    receipt = await ragqueue.runtime.records.read(erasures.receipt, "default", document_id)
    return receipt is not None and receipt.erased_at is not None


async def test_a_delete_cannot_be_cancelled(tmp_path: Path) -> None:
    records = open_records(tmp_path)
    await records.write(add, "d", "a")
    await records.write(jobs.insert_job, TENANT, "delete", "delete", {"document_id": "d"}, 600.0)

    with pytest.raises(Conflict, match="cannot be cancelled"):
        await cancel(records, SqlEventLog(records), TENANT, "delete")

    records.close()


async def test_a_document_that_very_many_answers_quote_is_erased(tmp_path: Path) -> None:
    records = open_records(tmp_path)
    eraser, job, question = await begin(records)
    await records.write(jobs.finish, question, Outcome(state="cancelled"))

    def quote(connection: Connection) -> None:
        connection.exec_driver_sql(positional(connection, MANY_JOBS), (MANY, TENANT))
        connection.exec_driver_sql(
            "insert into quotes select tenant, 'd', id from jobs where id like 'many%'"
        )

    await records.write(quote)

    outcome = await eraser.run(job)

    assert (outcome.result or {})["counts"]["logs"] == MANY + 1
    records.close()


async def test_an_upload_of_a_source_that_is_deleted_at_the_same_moment_becomes_a_new_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Ragqueue(settings=settings_of(tmp_path)) as ragqueue:
        stored = await ragqueue.store("a.md", b"# A\n\nThe green lamp hangs above the door.\n")
        assert stored is not None
        old = stored.payload["document_id"]
        by_source = documents.by_source

        def then_deleted(connection: Connection, *given: Any) -> Any:
            known = by_source(connection, *given)
            if known is not None and known.id == old:
                monkeypatch.setattr(documents, "by_source", by_source)
                with create_engine(ragqueue.runtime.records.url).begin() as other:
                    other.exec_driver_sql("update documents set state = 'deleted'")
            return known

        monkeypatch.setattr(documents, "by_source", then_deleted)
        again = await ragqueue.store("a.md", b"# A\n\nThe red lamp hangs above the door.\n")

        assert again is not None
        assert again.state == "succeeded"
        assert again.payload["document_id"] != old

"""An erasure waits for the questions that are being answered from the document."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from ragqueue.errors import Unavailable
from ragqueue.events.sql import SqlEventLog
from ragqueue.ingestion import ingest
from ragqueue.ingestion.ingest import Ingester
from ragqueue.records import documents, jobs
from ragqueue.records.schema import chunks
from ragqueue.records.store import Records
from ragqueue.types import Job, Outcome, Space
from tests.library import GENERATION, add, hide, open_records

TENANT = "acme"


async def running(records: Records, kind: str, payload: dict[str, str]) -> Job:
    await records.write(jobs.insert_job, TENANT, kind, kind, payload, 600.0, None, None)
    job = await records.write(jobs.claim, kind, "worker", 0.0, 60.0)
    assert job is not None
    return job


async def begin(records: Records, index: Any = None) -> tuple[Ingester, Job, Job]:
    """Return an ingester, the erasure of a document, and a question that is being answered from it."""
    await records.write(add, "d", "a\nb")
    question = await running(records, "chat", {"question": "?"})
    await records.write(documents.note_quotes, TENANT, question.id, ["d"])
    await records.write(hide, "d")
    ingester = Ingester(records, cast(Any, None), SqlEventLog(records), cast(Any, None), None, index, max_upload=1)
    return ingester, await running(records, "delete", {"document_id": "d"}), question


async def test_an_erasure_cancels_the_question_that_is_answered_from_the_document_and_waits_for_its_end(tmp_path: Path) -> None:
    records = open_records(tmp_path)
    ingester, job, question = await begin(records)
    erasing = asyncio.create_task(ingester.erase(job))
    async with asyncio.timeout(5):
        while not await asked(records, question):
            await asyncio.sleep(0)
    assert not erasing.done()

    await records.write(jobs.finish, question, Outcome("cancelled"))

    outcome = await asyncio.wait_for(erasing, 5)
    assert (outcome.state, (outcome.result or {})["counts"]["chunks"]) == ("succeeded", 2)
    records.close()


async def asked(records: Records, question: Job) -> bool:
    row = await records.read(jobs.get, TENANT, question.id)
    return row is not None and row.cancel_requested


async def test_an_erasure_is_tried_again_while_a_question_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "_LOOKS", 2)
    records = open_records(tmp_path)
    ingester, job, _ = await begin(records)

    with pytest.raises(Unavailable, match="still answers"):
        await ingester.erase(job)

    records.close()


async def test_an_index_of_ones_own_is_told_what_an_erasure_took(tmp_path: Path) -> None:
    told: list[tuple[Space, list[int]]] = []

    class Foreign:
        async def delete(self, space: Space, numbers: list[int]) -> None:
            told.append((space, sorted(numbers)))

    records = open_records(tmp_path)
    ingester, job, question = await begin(records, index=Foreign())
    numbers = [chunk.number for chunk in await records.read(lambda connection: connection.execute(chunks.select()).all())]
    await records.write(jobs.finish, question, Outcome("cancelled"))

    await ingester.erase(job)

    assert told == [(Space(TENANT, "default", GENERATION), numbers)]
    records.close()

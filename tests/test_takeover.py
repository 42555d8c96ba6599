"""An answer survives the death of the worker that was writing it.

It is continued, or begun anew with one `restarted` event.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from campaigns.services import RedisServer
from ragqueue.embedded import Ragqueue
from ragqueue.records import jobs
from ragqueue.types import Event, Job, Ring

from .api.conftest import DOCUMENT, QUESTION

TENANT = "default"


@pytest.fixture(params=["sql", "rq"])
async def open_house(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Any]:
    """Open processes over one data folder, on each engine; none works by itself."""
    monkeypatch.setenv("RAGQUEUE_ENV_FILE", "")
    monkeypatch.chdir(tmp_path)
    queue = "sql"
    if request.param == "rq":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flush()
        queue = f"rq+{server.url}"
    opened: list[Ragqueue] = []

    async def open_one(model: str) -> Ragqueue:
        flags = {
            "data": tmp_path / "data",
            "vector_db_path": tmp_path / "v",
            "embedder": "none",
            "queue": queue,
            "llm_model": model,
        }
        house = await Quiet(settings=flags).__aenter__()
        opened.append(house)
        return house

    yield open_one
    for house in opened:
        await house.__aexit__(None, None, None)


class Quiet(Ragqueue):
    """A process that works only when it is told to."""

    async def workers(self) -> int:
        return 1


async def ingest(house: Ragqueue, text: str) -> None:
    _, job = await house.runtime.acceptor.accept(TENANT, text.encode(), source="ferries.md")
    if job is not None:
        worker = house.runtime.worker(lanes={"background": 1})
        worker.start()
        await worker.handle(ring_of(job))
        await worker.drain(1)


async def submit(house: Ragqueue) -> Job:
    parts = house.runtime
    await ingest(house, DOCUMENT)
    return await parts.submitter.submit(TENANT, "chat", {"question": QUESTION})


def ring_of(job: Job) -> Ring:
    return Ring(job_id=job.id, lane=job.lane, database="", stamp=0.0)


async def die_after(house: Ragqueue, job: Job, deltas: int) -> list[Event]:
    """Begin the answer and die like a killed process.

    Nothing is flushed, handed back or finished.
    """
    parts = house.runtime
    worker = parts.worker()
    worker.start()
    handling = asyncio.create_task(worker.handle(ring_of(job)))
    async with asyncio.timeout(10):
        logged = await log_of(house, job)
        while sum(event.type.endswith("text.delta") for event in logged) < deltas:
            await asyncio.sleep(0.01)
            logged = await log_of(house, job)
    for run, task in list(worker._held.values()):
        if run.pen is not None:
            run.pen.lost = True
        task.cancel()
    await asyncio.gather(handling, return_exceptions=True)
    owner = (await house.runtime.records.read(jobs.get, TENANT, job.id)).owner  # type: ignore[union-attr]
    worker._beat.stop()
    await parts.records.write(jobs.release, owner)
    return logged


async def log_of(house: Ragqueue, job: Job) -> list[Event]:
    return (await house.runtime.log.read({job.id: 0})).get(job.id, [])


async def go_on(house: Ragqueue, job: Job) -> dict[str, Any]:
    worker = house.runtime.worker()
    worker.start()
    await worker.handle(ring_of(job))
    await worker.drain(1)
    answer = await house.runtime.records.read(jobs.answer, TENANT, job.id)
    assert answer is not None
    return answer


def text_of(events: list[Event]) -> str:
    """Add up what a reader holds at the end."""
    text = ""
    for event in events:
        text = "" if event.type == "ragqueue:restarted" else text + event.data.get("delta", "")
    return text


async def test_a_model_that_can_continue_goes_on_where_it_broke_off(open_house: Any) -> None:
    house = await open_house("scripted:rate=40&tokens=30")
    job = await submit(house)
    before = await die_after(house, job, 5)

    answer = await go_on(await open_house("scripted:rate=0&tokens=30"), job)

    after = await log_of(house, job)
    seqs_before = [event.seq for event in before]
    seqs_after = [event.seq for event in after[: len(before)]]
    assert json.dumps(seqs_after) == json.dumps(seqs_before)
    assert "ragqueue:restarted" not in [event.type for event in after]
    assert text_of(after) == answer["text"]
    assert len(answer["text"].split()) >= 30
    events = [event async for batch in house.runtime.follower.follow(job) for event in batch]
    assert text_of(events) == answer["text"]


async def test_one_that_cannot_begins_anew_with_exactly_one_event(open_house: Any) -> None:
    house = await open_house("scripted:rate=40&tokens=30&continues=0")
    job = await submit(house)
    await die_after(house, job, 5)

    answer = await go_on(await open_house("scripted:rate=0&tokens=30&continues=0"), job)

    after = await log_of(house, job)
    assert [event.type for event in after].count("ragqueue:restarted") == 1
    assert text_of(after) == answer["text"]
    items = [event for event in after if event.type == "response.output_item.added"]
    assert [item.data["output_index"] for item in items] == [0, 1, 2]


async def test_an_answer_whose_passages_were_replaced_meanwhile_begins_anew(
    open_house: Any,
) -> None:
    house = await open_house("scripted:rate=40&tokens=30")
    job = await submit(house)
    await die_after(house, job, 5)
    await ingest(house, f"{DOCUMENT}\n\nOne line more.")

    answer = await go_on(await open_house("scripted:rate=0&tokens=30"), job)

    after = await log_of(house, job)
    assert [event.type for event in after].count("ragqueue:restarted") == 1
    assert text_of(after) == answer["text"]
    assert {citation["version"] for citation in answer["citations"]} == {2}


async def test_the_sources_are_searched_once(open_house: Any) -> None:
    house = await open_house("scripted:rate=40&tokens=30")
    job = await submit(house)
    await die_after(house, job, 2)
    await go_on(await open_house("scripted:rate=0&tokens=30"), job)

    assert [event.type for event in await log_of(house, job)].count("ragqueue:sources") == 1


async def test_an_extractive_answer_is_continued_with_its_citations_once(open_house: Any) -> None:
    house = await open_house("extractive")
    whole = await submit(house)
    expected = await go_on(house, whole)
    job = await submit(house)
    run = await house.runtime.records.write(jobs.claim, job.id, "dead", 0.0, 10.0)
    pen = await house.runtime.batcher.open(run)
    for event in await log_of(house, whole):
        if event.type not in ("fence", "end"):
            pen.write(event.type, event.data)
            if event.type.endswith("text.delta"):
                break
    await pen.flush()
    await house.runtime.records.write(jobs.release, "dead")

    answer = await go_on(house, job)

    assert answer["text"] == expected["text"]
    assert answer["citations"] == expected["citations"]
    log = await log_of(house, job)
    annotations = [event for event in log if event.type.endswith("annotation.added")]
    indexes = [annotation.data["annotation_index"] for annotation in annotations]
    assert indexes == list(range(len(expected["citations"])))

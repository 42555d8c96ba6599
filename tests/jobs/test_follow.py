"""What a reader sees: one ordered stream that resumes, whatever happens to log and worker."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import Connection

from ragqueue.errors import Unavailable
from ragqueue.events.pen import Pen
from ragqueue.jobs.control import cancel
from ragqueue.records import jobs
from ragqueue.records.statements import positional
from ragqueue.types import LAST_N, Event, Job, Outcome, seq_of

from .conftest import TENANT, House


def text_of(events: list[Event]) -> str:
    return "".join(event.data.get("delta", "") for event in events)


async def collected(stream: AsyncIterator[list[Event]]) -> list[Event]:
    return [event async for batch in stream for event in batch]


def say(pen: Pen, *words: str) -> None:
    for word in words:
        pen.write("response.output_text.delta", {"output_index": 1, "delta": word})


async def answered(house: House, *words: str) -> Job:
    job = await house.submit()
    held = await house.claim(job.id)
    pen = await house.batcher.open(held)
    for word in words:
        say(pen, word)
        await pen.flush()
    result = {"text": "".join(words), "citations": [], "log_end": pen.end}
    await house.records.write(jobs.finish, held, Outcome(state="succeeded", result=result))
    pen.write("end", {})
    await pen.flush()
    return await house.job(job.id)


async def test_a_stream_begins_with_the_row_and_ends_with_it(house: House) -> None:
    events = await house.events(await answered(house, "a", "b"))

    assert [event.type for event in (events[0], events[1], events[-1])] == [
        "response.created",
        "response.queued",
        "response.completed",
    ]
    assert text_of(events) == "ab"


async def test_a_stream_resumed_at_any_event_gives_every_later_one_once(house: House) -> None:
    job = await answered(house, *"abcdef")
    logged = (await house.log.read({job.id: 0}))[job.id]
    shown = [event.seq for event in logged if event.type.endswith("delta")]

    for index, seq in enumerate(shown):
        rest = await house.events(job, seq)
        assert text_of(rest) == "abcdef"[index + 1 :]
        assert rest[-1].seq == seq_of(1, LAST_N)


async def test_a_live_reader_and_a_late_one_see_the_same(house: House) -> None:
    job = await house.submit()
    live = asyncio.create_task(house.events(job))
    held = await house.claim(job.id)
    pen = await house.batcher.open(held)
    for word in "abcdefgh":
        say(pen, word)
        await pen.flush()
    await house.records.write(
        jobs.finish,
        held,
        Outcome(
            state="succeeded", result={"text": "abcdefgh", "citations": [], "log_end": pen.end}
        ),
    )
    pen.write("end", {})

    assert text_of(await live) == text_of(await house.events(await house.job(job.id))) == "abcdefgh"


async def test_a_lost_log_is_written_again_by_its_pen_unnoticed(house: House) -> None:
    job = await house.submit()
    live = asyncio.create_task(house.events(job))
    held = await house.claim(job.id)
    pen = await house.batcher.open(held)
    say(pen, "a", "b")
    await pen.flush()
    await house.log.drop([job.id])
    say(pen, "c")
    await pen.flush()
    await house.records.write(
        jobs.finish,
        held,
        Outcome(state="succeeded", result={"text": "abc", "citations": [], "log_end": pen.end}),
    )

    assert text_of(await live) == "abc"
    assert text_of(await house.events(await house.job(job.id))) == "abc"


async def test_a_log_that_is_lost_with_its_worker_restarts_the_reader(house: House) -> None:
    job = await house.submit()
    held = await house.claim(job.id, owner="dead")
    pen = await house.batcher.open(held)
    say(pen, "old")
    await pen.flush()
    events: list[Event] = []
    shown = asyncio.Event()

    async def read() -> None:
        async for batch in house.follower.follow(job):
            events.extend(batch)
            if text_of(events) == "old":
                shown.set()

    live = asyncio.create_task(read())
    async with asyncio.timeout(5):
        await shown.wait()
    await house.log.drop([job.id])
    await house.records.write(jobs.release, "dead")
    held = await house.claim(job.id)
    pen = await house.batcher.open(held)
    say(pen, "new")
    await pen.flush()
    await house.records.write(
        jobs.finish,
        held,
        Outcome(state="succeeded", result={"text": "new", "citations": [], "log_end": pen.end}),
    )

    await live
    restart = [event.type for event in events].index("ragqueue:restarted")
    assert text_of(events[restart:]) == "new"


async def test_an_id_that_is_not_in_the_log_restarts_the_reader(house: House) -> None:
    job = await answered(house, "a")

    events = await house.events(job, 1 << 20 | 500)

    assert "ragqueue:restarted" in [event.type for event in events]
    assert text_of(events) == "a"


async def test_an_ended_job_whose_log_is_past_its_time_is_retold_from_its_answer(
    house: House,
) -> None:
    job = await answered(house, "a", "b")
    await house.log.drop([job.id])

    events = await house.events(job)

    assert text_of(events) == "ab"
    assert [event.seq for event in events] == sorted({event.seq for event in events})
    assert "ragqueue:restarted" not in [event.type for event in events]


async def test_a_newer_attempt_fences_the_older_one_out(house: House) -> None:
    job = await house.submit()
    old = await house.batcher.open(await house.claim(job.id, owner="dead"))
    say(old, "a")
    await old.flush()
    await house.records.write(jobs.release, "dead")
    new = await house.batcher.open(await house.claim(job.id))
    say(old, "zombie")
    say(new, "b")
    await new.flush()

    logged = (await house.log.read({job.id: 0}))[job.id]
    assert text_of(logged) == "ab"
    assert old.lost


async def test_the_new_attempt_keeps_what_the_old_one_wrote(house: House) -> None:
    job = await house.submit()
    old = await house.batcher.open(await house.claim(job.id, owner="dead"))
    say(old, "a", "b")
    await old.flush()
    await house.records.write(jobs.release, "dead")

    new = await house.batcher.open(await house.claim(job.id))

    assert text_of(new.kept) == "ab"


async def test_another_tenants_job_is_not_there(house: House) -> None:
    job = await answered(house, "a")

    assert await house.records.read(jobs.get, TENANT, job.id) is not None
    assert await house.records.read(jobs.get, "another", job.id) is None


async def damage(house: House, job: Job, seq: int) -> None:
    """Put an entry that is no JSON into a job's log."""
    statement = "insert into events (job_id, seq, type, data, at) values (?, ?, 'x', '{bad', 0)"
    await house.records.note(
        lambda connection: connection.exec_driver_sql(
            positional(connection, statement), (job.id, seq)
        )
    )


async def test_a_damaged_entry_ends_no_other_stream(house: House) -> None:
    harmed, other = await house.submit(), await house.submit()
    reading = [asyncio.create_task(house.events(job)) for job in (harmed, other)]
    await damage(house, harmed, seq_of(2, 1))
    await cancel(house.records, house.log, TENANT, other.id)

    assert (await reading[1])[-1].type == "response.cancelled"
    await cancel(house.records, house.log, TENANT, harmed.id)
    assert (await reading[0])[-1].type == "response.cancelled"


async def test_readers_of_a_damaged_log_are_told_the_whole_answer(house: House) -> None:
    job = await house.submit()
    live = asyncio.create_task(house.events(job))
    held = await house.claim(job.id)
    pen = await house.batcher.open(held)
    say(pen, "a", "b")
    await pen.flush()
    await damage(house, job, seq_of(1, 900))
    result = {"text": "abc", "citations": [], "log_end": seq_of(1, 901)}
    await house.records.write(jobs.finish, held, Outcome(state="succeeded", result=result))

    for events in (await live, await house.events(await house.job(job.id))):
        restarts = [n for n, event in enumerate(events) if event.type == "ragqueue:restarted"]
        assert text_of(events[max(restarts) :]) == "abc"
        assert events[-1].type == "response.completed"


async def test_an_attempt_that_finds_a_damaged_log_begins_anew(house: House) -> None:
    job = await house.submit()
    pen = await house.batcher.open(await house.claim(job.id))
    say(pen, "a")
    await pen.flush()
    await damage(house, job, seq_of(1, 900))
    await house.records.write(jobs.release, "a-worker")

    pen = await house.batcher.open(await house.claim(job.id))
    say(pen, "b")
    await pen.flush()

    assert text_of((await house.log.read({job.id: 0}))[job.id]) == "b"


async def test_a_resume_while_the_log_is_away_is_refused_and_a_running_stream_waits(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await house.submit()
    held = await house.claim(job.id)
    pen = await house.batcher.open(held)
    say(pen, "a")
    await pen.flush()
    stream = await house.follower.open(job)
    read, away = house.log.read, [True]

    async def flaky(*given: Any) -> dict[str, list[Event]]:
        if away:
            raise Unavailable("the log is away")
        return await read(*given)

    monkeypatch.setattr(house.log, "read", flaky)
    with pytest.raises(Unavailable):
        await house.follower.open(job, pen.end)
    waiting = asyncio.create_task(collected(stream))
    result = {"text": "a", "citations": [], "log_end": pen.end}
    await house.records.write(jobs.finish, held, Outcome(state="succeeded", result=result))
    away.clear()

    events = await asyncio.wait_for(waiting, 5)
    assert text_of(events) == "a"
    assert events[-1].type == "response.completed"


async def test_a_reader_who_is_no_longer_welcome_is_sent_away(house: House) -> None:
    job = await house.submit()
    welcome = [True]
    reading = asyncio.create_task(
        collected(await house.follower.open(job, welcome=lambda: bool(welcome)))
    )
    await house.claim(job.id)
    welcome.clear()

    events = await asyncio.wait_for(reading, 5)

    assert [event.type for event in events] == ["response.created", "response.queued"]


async def test_a_reader_that_goes_away_is_forgotten_at_once(house: House) -> None:
    job = await house.submit()
    stream = await house.follower.open(job)
    await anext(stream)
    waiting = asyncio.create_task(anext(stream))
    while not house.follower._readers:
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await stream.aclose()

    assert not house.follower._readers


async def test_many_readers_of_one_job_are_one_look_at_its_row(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[list[str]] = []
    states = jobs.states

    def counted(connection: Connection, job_ids: list[str]) -> dict[str, str]:
        looked.append(job_ids)
        return states(connection, job_ids)

    monkeypatch.setattr(jobs, "states", counted)
    job = await house.submit()
    reading = [asyncio.create_task(house.events(job)) for _ in range(20)]
    while len(house.follower._readers) < 20:
        await asyncio.sleep(0.01)
    await cancel(house.records, house.log, TENANT, job.id)
    await asyncio.gather(*reading)

    assert {len(job_ids) for job_ids in looked} == {1}

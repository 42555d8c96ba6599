"""The life of a job: each step is conditional, and each promise fails here when it is broken."""

import asyncio
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import Connection

from ragqueue.errors import (
    Conflict,
    GenerationFailed,
    IdempotencyConflict,
    QueueFull,
    StoreFull,
    Unavailable,
)
from ragqueue.events.sql import SqlEventLog
from ragqueue.jobs.control import cancel, end_unheld, erase_jobs
from ragqueue.jobs.reconcile import Reconciler
from ragqueue.jobs.submit import Bounds
from ragqueue.queues.base import Handle
from ragqueue.queues.sql import SqlQueue
from ragqueue.records import jobs, retention, schema, workers
from ragqueue.records.statements import NOW
from ragqueue.types import Append, Event, Outcome, Ring, seq_of
from ragqueue.working.inside import work
from ragqueue.working.loops import Keeper
from ragqueue.working.run import Run
from tests import tables

from .conftest import MONTH, TENANT, House

DONE = Outcome(state="succeeded", result={"text": "yes", "citations": [], "log_end": 0})


async def test_a_submitted_job_is_on_the_disk_when_submit_returns(house: House) -> None:
    job = await house.submit()

    assert (await house.job(job.id)).state == "queued"


async def test_only_one_of_many_claims_wins(house: House) -> None:
    job = await house.submit()

    claims = await asyncio.gather(
        *(house.records.write(jobs.claim, job.id, f"w{i}", 1.0, 10.0) for i in range(20))
    )

    assert [claim.attempt for claim in claims if claim] == [1]


async def test_a_run_that_lost_its_lease_cannot_finish(house: House) -> None:
    job = await house.submit()
    old = await house.claim(job.id, owner="dead")
    await house.records.write(jobs.release, "dead")
    await house.claim(job.id, owner="alive")

    assert not await house.records.write(jobs.finish, old, DONE)
    assert await house.records.read(jobs.answer, TENANT, job.id) is None


async def test_a_released_job_counts_a_death_and_is_claimable_at_once(house: House) -> None:
    job = await house.submit()
    await house.claim(job.id, owner="dead")

    assert len(await house.records.write(jobs.release, "dead")) == 1

    again = await house.claim(job.id, owner="alive")
    assert (again.attempt, again.deaths, again.tries) == (2, 1, 0)


async def test_from_the_second_death_on_a_job_waits_longer_each_time(house: House) -> None:
    job = await house.submit()
    waits = []
    for _ in range(8):
        await house.records.write(lambda c: c.exec_driver_sql("update jobs set run_at = 0"))
        await house.claim(job.id, owner="dead")
        await house.records.write(jobs.release, "dead")
        waits.append(
            await house.records.read(
                lambda c: c.exec_driver_sql("select round(run_at - epoch()) from jobs").scalar()
            )
        )

    assert waits == [0, 1, 2, 4, 8, 15, 15, 15]


async def test_leases_that_ran_out_are_released_by_reconcile(house: House) -> None:
    job = await house.submit()
    await house.claim(job.id, lease=-1.0)

    await house.reconciler.leases()

    assert (await house.job(job.id)).state == "queued"


async def test_a_live_lease_is_not_released(house: House) -> None:
    job = await house.submit()
    await house.claim(job.id, lease=10.0)

    await house.reconciler.leases()

    assert (await house.job(job.id)).state == "running"


async def test_a_lost_ring_is_rung_again_only_when_it_is_old_and_the_queue_is_empty(
    house: House,
) -> None:
    await house.submit()

    def lost(age: float, empty: bool) -> object:
        return house.records.write(
            lambda c: jobs.ring_lost(c, "chat", empty=empty, age=age, looked=time.monotonic())
        )

    assert await lost(2.0, True) == []
    assert await lost(-1.0, False) == []
    assert len(await lost(-1.0, True)) == 1


async def test_a_look_at_an_empty_queue_says_nothing_of_rings_that_came_after_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragqueue.jobs.reconcile.RING_AGE", 0.05)
    rung: list[Ring] = []
    monkeypatch.setattr(house.ringer, "ring", rung.extend)
    gate = threading.Event()
    busy = asyncio.create_task(house.records.note(lambda _: gate.wait(5)))
    submitted = asyncio.create_task(house.submit())
    slow = asyncio.create_task(house.records.note(lambda _: time.sleep(0.2)))  # type: ignore[func-returns-value]
    looking = asyncio.create_task(house.reconciler.rings())
    await asyncio.sleep(0.05)  # it has seen an empty queue, and its write waits behind the others

    gate.set()
    await asyncio.gather(busy, submitted, slow, looking)

    assert [ring.front for ring in rung] == [False]


async def test_rings_on_their_way_are_not_lost(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragqueue.jobs.reconcile.RING_AGE", -1.0)
    monkeypatch.setattr(house.queue, "depth", _nothing)
    sent = asyncio.Event()
    given: list[Ring] = []

    async def slowly(rings: Sequence[Ring]) -> None:
        given.extend(rings)
        await sent.wait()

    monkeypatch.setattr(house.queue, "ring", slowly)
    await house.submit()
    while not given:
        await asyncio.sleep(0.01)
    await house.reconciler.rings()
    sent.set()
    await house.ringer.flush()

    assert [ring.front for ring in given] == [False]


async def _nothing(lane: str) -> int:
    return 0


async def test_twenty_overtakings_prove_a_lost_ring_and_nineteen_do_not(house: House) -> None:
    await house.submit("overtaken")
    earlier = "update jobs set rung_at = rung_at - 0.5"  # many have one millisecond
    await house.records.write(lambda connection: connection.exec_driver_sql(earlier))
    later = [await house.submit() for _ in range(20)]

    async def claim_with_stamp(job_id: str) -> None:
        await house.records.write(
            jobs.claim, job_id, "w", (await house.job(job_id)).created_at, 10.0
        )

    def lost() -> object:
        return house.records.write(
            lambda c: jobs.ring_lost(c, "chat", empty=False, age=-1.0, looked=time.monotonic())
        )

    for job in later[:19]:
        await claim_with_stamp(job.id)
    assert await lost() == []
    await claim_with_stamp(later[19].id)
    assert len(await lost()) == 1


async def test_rings_at_the_front_overtake_nobody(house: House) -> None:
    await house.submit("waits")
    for job in [await house.submit() for _ in range(30)]:
        await house.records.write(jobs.claim, job.id, "w", 0.0, 10.0)

    found = await house.records.write(
        lambda c: jobs.ring_lost(c, "chat", empty=False, age=-1.0, looked=time.monotonic())
    )

    assert found == []


async def test_a_job_past_its_deadline_fails_with_the_reason(house: House) -> None:
    house.submitter._deadlines = {"chat": -1.0}
    job = await house.submit()

    await house.reconciler.deadlines()

    ended = await house.job(job.id)
    assert (ended.state, ended.error_code) == ("failed", "deadline_exceeded")


async def test_a_job_that_saw_deaths_ends_as_a_dead_letter_at_its_deadline_and_not_before(
    house: House,
) -> None:
    job = await house.submit()
    for _ in range(5):
        await house.records.write(lambda c: c.exec_driver_sql("update jobs set run_at = 0"))
        await house.claim(job.id, owner="dead")
        await house.records.write(jobs.release, "dead")
    await house.reconciler.deadlines()
    assert (await house.job(job.id)).state == "queued"

    await house.records.write(lambda c: c.exec_driver_sql("update jobs set deadline_at = 0"))
    await house.reconciler.deadlines()

    assert (await house.job(job.id)).error_code == "dead_letter"


async def test_retry_makes_a_new_job_and_the_ended_one_stays(house: House) -> None:
    house.submitter._deadlines = {"chat": -1.0}
    job = await house.submit()
    await house.reconciler.deadlines()

    again = await house.submitter.retry(await house.job(job.id))

    assert (again.retry_of, (await house.job(job.id)).state) == (job.id, "failed")


async def test_only_failed_or_cancelled_jobs_can_be_retried(house: House) -> None:
    job = await house.submit()

    with pytest.raises(Conflict, match="queued"):
        await house.submitter.retry(job)


async def test_a_waiting_job_is_cancelled_at_once(house: House) -> None:
    job = await house.submit()

    cancelled = await cancel(house.records, house.log, TENANT, job.id)

    assert cancelled is not None
    assert cancelled.state == "cancelled"


async def test_a_cancelled_run_whose_worker_is_gone_ends_with_its_log_fenced(house: House) -> None:
    job = await house.submit()
    held = await house.claim(job.id, owner="dead")
    pen = await house.batcher.open(held)
    pen.write("response.output_text.delta", {"output_index": 1, "delta": "half"})
    await pen.flush()
    await house.records.write(jobs.release, "dead")

    await cancel(house.records, house.log, TENANT, job.id)
    pen.write("response.output_text.delta", {"output_index": 1, "delta": "zombie"})

    events = await house.events(await house.job(job.id))
    assert [event.data.get("delta") for event in events] == [None, None, "half", None]
    assert events[-1].type == "response.cancelled"


async def test_burying_a_job_that_went_on_does_nothing(house: House) -> None:
    waiting = await house.submit()
    await house.claim(waiting.id)

    await end_unheld(house.records, house.log, waiting)

    assert (await house.job(waiting.id)).state == "running"


async def test_the_bounds_refuse_with_the_time_to_come_back(house: House) -> None:
    house.submitter._bounds = Bounds(of_all=20_000, of_tenant=2)
    await house.submit()
    await house.submit()

    with pytest.raises(QueueFull) as refused:
        await house.submit()

    assert refused.value.retry_after is not None
    assert (await house.submitter.submit("another", "chat", {"question": "?"})).state == "queued"


async def test_the_same_idempotency_key_gives_the_same_job(house: House) -> None:
    key = "caller k1"
    first = await house.submitter.submit(TENANT, "chat", {"question": "?"}, idempotency=key)
    second = await house.submitter.submit(TENANT, "chat", {"question": "?"}, idempotency=key)

    assert first.id == second.id
    with pytest.raises(IdempotencyConflict):
        await house.submitter.submit(TENANT, "chat", {"question": "!"}, idempotency=key)


async def test_concurrent_posts_of_one_key_make_one_job(house: House) -> None:
    key = "caller k1"

    made = await asyncio.gather(
        *(
            house.submitter.submit(TENANT, "chat", {"question": "?"}, idempotency=key)
            for _ in range(20)
        )
    )

    assert len({job.id for job in made}) == 1
    assert len(await house.records.read(lambda connection: jobs.due(connection, "chat", 9))) == 1


async def test_an_error_that_a_retry_helps_is_tried_three_times(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragqueue.working.worker.FIRST_DELAY", 0.0)
    runs = []

    async def fails(run: Run) -> Outcome:
        runs.append(run.job.attempt)
        raise GenerationFailed("the model hung up")

    async with house.working({"chat": fails}):
        job = await house.submit()
        house.heal()
        ended = await house.ended(job.id)

    assert (runs, ended.error_code, ended.tries, ended.deaths) == (
        [1, 2, 3],
        "generation_failed",
        2,
        0,
    )


async def test_a_log_that_is_away_costs_no_try(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, away = house.log.append, ["once", "twice", "thrice", "and again"]

    async def flaky(appends: Sequence[Append]) -> list[int]:
        if away:
            away.pop()
            raise Unavailable("the log is away")
        return await append(appends)

    async def takes_over(run: Run) -> Outcome:
        run.pen = await run.batcher.open(run.job)
        return DONE

    monkeypatch.setattr(house.log, "append", flaky)
    job = await house.submit()
    await house.claim(job.id, lease=-1)
    await house.records.write(jobs.release)
    async with house.working({"chat": takes_over}):
        ended = await house.ended(job.id)

    assert (ended.state, ended.attempt, ended.tries, away) == ("succeeded", 2, 0, [])


async def test_a_lane_that_is_told_to_end_ends_the_work_of_both() -> None:
    class Queue(SqlQueue):
        async def work(self, handle: Handle, lane: str, concurrency: int) -> None:
            if lane == "chat":
                await asyncio.Event().wait()

    async with asyncio.timeout(5):
        await work(Mock(), Queue(Mock()), {"chat": 1, "background": 1}, Keeper())


async def test_an_error_that_no_retry_helps_fails_at_once(house: House) -> None:
    async def fails(run: Run) -> Outcome:
        raise GenerationFailed("the key is wrong", retryable=False)

    async with house.working({"chat": fails}):
        ended = await house.ended((await house.submit()).id)

    assert (ended.attempt, ended.error_message) == (1, "the key is wrong")


async def test_a_running_job_is_cancelled_within_a_second(house: House) -> None:
    began, closed = asyncio.Event(), asyncio.Event()

    async def hangs(run: Run) -> Outcome:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            closed.set()
        raise AssertionError

    async with house.working({"chat": hangs}):
        job = await house.submit()
        await began.wait()
        await cancel(house.records, house.log, TENANT, job.id)
        ended = await house.ended(job.id)

    assert (ended.state, closed.is_set()) == ("cancelled", True)


async def test_draining_hands_back_what_did_not_end_without_counting_a_death(house: House) -> None:
    began = asyncio.Event()

    async def hangs(run: Run) -> Outcome:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with house.working({"chat": hangs}):
        job = await house.submit()
        await began.wait()

    handed_back = await house.job(job.id)
    assert (handed_back.state, handed_back.deaths, handed_back.attempt) == ("queued", 0, 1)


async def test_a_bug_in_a_kind_does_not_leave_the_job_running(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragqueue.working.worker.TRIES", 1)

    async def breaks(run: Run) -> Outcome:
        raise KeyError("a secret text")

    async with house.working({"chat": breaks}):
        ended = await house.ended((await house.submit()).id)

    assert ended.error_code == "internal_error"
    assert "secret" not in str(ended.error_message)


async def test_the_deadline_ends_a_run_and_keeps_its_partial_text(house: House) -> None:
    house.submitter._deadlines = {"chat": 0.5}

    async def slow(run: Run) -> Outcome:
        pen = run.pen = await run.batcher.open(run.job)
        run.partial = lambda: Outcome(
            state="succeeded", result={"text": "half", "citations": [], "log_end": pen.end}
        )
        await asyncio.Event().wait()
        raise AssertionError

    async with house.working({"chat": slow}):
        ended = await house.ended((await house.submit()).id)

    partial = await house.records.read(jobs.answer, TENANT, ended.id)
    assert ended.error_code == "deadline_exceeded"
    assert partial is not None
    assert partial["text"] == "half"


async def test_erasing_a_job_leaves_nothing_of_it(house: House) -> None:
    job = await house.submit()
    held = await house.claim(job.id)
    pen = await house.batcher.open(held)
    pen.write("response.output_text.delta", {"delta": "text"})
    await pen.flush()
    await house.records.write(jobs.finish, held, DONE)

    await erase_jobs(house.records, house.log, [(TENANT, job.id)])

    for table in ("jobs", "answers", "events"):
        assert (
            await house.records.read(
                lambda c, t=table: c.exec_driver_sql(f"select count(*) from {t}").scalar()
            )
            == 0
        )


async def test_retention_drops_replaced_texts_and_removals_with_the_answers_that_quoted_them(
    house: House,
) -> None:
    def fill(connection: Connection) -> None:
        for document, version, age, replaced in (
            ("a", 1, 3, 2),
            ("a", 2, 2, 0.5),
            ("a", 3, 0.5, None),
            ("b", 1, 3, None),
        ):
            row = {
                "tenant": TENANT,
                "document_id": document,
                "version": version,
                "text": "",
                "blocks": "[]",
                "sha256": "",
            }
            times = {"created_at": NOW - age * MONTH}
            if replaced is not None:
                times["replaced_at"] = NOW - replaced * MONTH
            connection.execute(tables.versions.insert().values(row | times))
        for collection, number, age in (
            ("one", 1, 3),
            ("one", 2, 0.5),
            ("one", 3, 0.4),
            ("other", 4, 2),
        ):
            row = {"tenant": TENANT, "collection": collection, "generation": "g", "number": number}
            connection.execute(tables.removals.insert().values(row | {"at": NOW - age * MONTH}))

    def left(connection: Connection) -> tuple[list[str], list[int]]:
        texts = connection.exec_driver_sql(
            "select document_id || version from versions order by 1"
        ).scalars()
        return list(texts), list(
            connection.exec_driver_sql("select number from removals order by 1").scalars()
        )

    await house.records.write(fill)

    await house.reconciler.tidy()

    assert await house.records.read(left) == (["a2", "a3", "b1"], [2, 3, 4])


async def test_workers_that_died_are_forgotten_and_living_ones_are_not(house: House) -> None:
    for owner in ("dead", "alive"):
        await house.records.note(workers.beat, owner, "chat", 0, {})
    await house.records.note(
        lambda c: c.exec_driver_sql(
            "update workers set beat_at = beat_at - 4000 where owner = 'dead'"
        )
    )

    await house.reconciler.tidy()

    assert [row["owner"] for row in await house.records.read(workers.alive, 1e9)] == ["alive"]


async def test_retention_drops_logs_then_jobs(house: House) -> None:
    job = await house.submit()
    held = await house.claim(job.id)
    pen = await house.batcher.open(held)
    pen.write("response.output_text.delta", {"delta": "text"})
    await pen.flush()
    await house.records.write(jobs.finish, held, DONE)
    await house.records.write(
        lambda c: c.exec_driver_sql("update jobs set ended_at = ended_at - 700")
    )

    await house.reconciler.retention()

    assert await house.log.read({job.id: 0}) == {}
    assert (await house.job(job.id)).state == "succeeded"
    await house.records.write(lambda c: c.exec_driver_sql("update jobs set ended_at = 0"))
    await house.reconciler.retention()
    assert await house.records.read(jobs.get, TENANT, job.id) is None


async def test_a_lane_goes_on_after_a_surprise(house: House) -> None:
    failing = [RuntimeError("disk I/O error")]

    class Queue(SqlQueue):
        async def work(self, handle: Handle, lane: str, concurrency: int) -> None:
            if failing:
                raise failing.pop()
            await super().work(handle, lane, concurrency)

    async def answers(_: Run) -> Outcome:
        return DONE

    house.queue = Queue(house.records)
    async with house.working({"chat": answers}):
        job = await house.submit()

        assert (await house.ended(job.id)).state == "succeeded"


async def test_a_beat_goes_on_after_a_surprise_and_no_lease_is_lost(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat, failing = workers.beat, [ValueError("a surprise"), None, None]  # the third beat meets it

    def surprised(*given: Any) -> None:
        if failing and (error := failing.pop()):
            raise error
        beat(*given)

    async def answers(_: Run) -> Outcome:
        await asyncio.to_thread(renewals.acquire, timeout=5)
        return DONE

    renew, renewals = jobs.renew, threading.Semaphore(0)

    def counted(*given: Any) -> Any:
        renewals.release() if not failing else None
        return renew(*given)

    monkeypatch.setattr("ragqueue.records.workers.beat", surprised)
    monkeypatch.setattr("ragqueue.records.jobs.renew", counted)
    async with house.working({"chat": answers}, lease=1.0):
        job = await house.submit()
        ended = await house.ended(job.id)

    assert (ended.state, ended.attempt, ended.deaths) == ("succeeded", 1, 0)


async def test_a_process_without_a_heart_claims_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = asyncio.Event()

    async def look(seconds: float) -> None:
        looked.set()
        await real_sleep(seconds)

    real_sleep = asyncio.sleep
    worker = house.worker({})
    monkeypatch.setattr("ragqueue.working.worker.asyncio.sleep", look)
    job = await house.submit()
    handling = asyncio.create_task(
        worker.handle(Ring(job_id=job.id, lane="chat", database=house.database, stamp=0.0))
    )
    await asyncio.wait_for(looked.wait(), 5)

    assert (await house.job(job.id)).state == "queued"
    handling.cancel()


async def test_a_full_disk_costs_no_try_and_no_answer(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, finish, full = house.log.append, jobs.finish, {"append": 3, "finish": 3}

    def meet(what: str) -> None:
        if full[what]:
            full[what] -= 1
            raise StoreFull("the disk is full")

    async def append_when_there_is_room(appends: Sequence[Append]) -> list[int]:
        meet("append")
        return await append(appends)

    def finish_when_there_is_room(*given: Any) -> bool:
        meet("finish")
        return finish(*given)

    async def answers(run: Run) -> Outcome:
        run.pen = await run.batcher.open(run.job)
        run.pen.write("response.output_text.delta", {"delta": "yes"})
        return DONE

    monkeypatch.setattr(house.log, "append", append_when_there_is_room)
    monkeypatch.setattr("ragqueue.records.jobs.finish", finish_when_there_is_room)
    async with house.working({"chat": answers}):
        job = await house.submit()
        ended = await house.ended(job.id)

    assert (ended.state, ended.tries, full) == ("succeeded", 0, {"append": 0, "finish": 0})


async def test_events_that_cannot_be_written_fail_their_own_run_alone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragqueue.working.loops.FIRST_PAUSE", 0.0)
    monkeypatch.setattr("ragqueue.working.worker.TRIES", 1)

    async def answers(run: Run) -> Outcome:
        run.pen = await run.batcher.open(run.job)
        for _ in range(5):
            run.pen.write(
                "response.output_text.delta",
                {"delta": object() if run.job.payload["question"] == "bad" else "yes"},
            )
            await run.pen.flush()
        return DONE

    async with house.working({"chat": answers}):
        good = [await house.submit() for _ in range(5)]
        bad = await house.submit("bad")
        good += [await house.submit() for _ in range(5)]
        states = [(await house.ended(job.id)).state for job in good]
        ended = await house.ended(bad.id)

    assert states == ["succeeded"] * 10
    assert (ended.state, ended.error_code) == ("failed", "internal_error")


async def test_the_log_of_an_ended_job_is_dropped_wherever_it_is_kept(
    house: House, tmp_path: Path
) -> None:
    elsewhere = schema.open_records(tmp_path / "elsewhere")
    schema.migrate(elsewhere.engine)
    log = SqlEventLog(elsewhere)
    reconciler = Reconciler(
        house.records,
        house.queue,
        log,
        house.ringer,
        house.submitter,
        keep_events=0.0,
        keep_jobs=MONTH,
        lease=5.0,
    )
    job = await house.submit()
    held = await house.claim(job.id)
    await log.append(
        [Append(job_id=job.id, after=-1, events=[Event(seq=seq_of(1, 0), type="fence", data={})])]
    )
    await reconciler.retention()
    assert await log.read({job.id: 0}) != {}

    await house.records.write(jobs.finish, held, DONE)
    await reconciler.retention()

    assert await log.read({job.id: 0}) == {}
    assert await house.records.read(retention.logged, 0.0, 10) == []
    elsewhere.close()


async def test_pages_of_jobs_hold_each_job_once_though_many_have_one_time(house: House) -> None:
    made = {(await house.submit()).id for _ in range(25)}
    await house.records.write(lambda c: c.exec_driver_sql("update jobs set created_at = 5.125"))
    seen: list[str] = []
    after = None

    while rows := await house.records.read(
        partial(jobs.listed, tenant=TENANT, state=None, kind="chat", after=after, limit=4)
    ):
        seen += [job.id for job in rows]
        after = (rows[-1].created_at, rows[-1].id)

    assert sorted(seen) == sorted(made)


async def test_a_file_that_cannot_be_compacted_keeps_nothing_else_from_being_tidied(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: Any) -> None:
        raise StoreFull("the disk is full")

    forgotten = []
    monkeypatch.setattr("ragqueue.jobs.reconcile.compact", full)
    monkeypatch.setattr(workers, "forget", lambda *_: forgotten.append(1))

    with pytest.raises(StoreFull):
        await house.reconciler.tidy()

    assert forgotten == [1]

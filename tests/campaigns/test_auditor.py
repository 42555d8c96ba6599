import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from campaigns.faults.auditor import audit, count
from campaigns.faults.evidence import GONE, Entry, Finding, Move, Row, Store, read_store
from campaigns.faults.testimony import difference
from ragqueue.events.base import END, FENCE
from ragqueue.jobs.stream import DELTA, RESTARTED
from ragqueue.records.schema import migrate, open_records
from ragqueue.records.sqlite import sqlite_module
from ragqueue.types import LAST_N, seq_of

JOB = "a"
DEADLINE = 1000.0
TEXT = "one two three "
A_JOB = """
insert into jobs (
    tenant, id, kind, lane, state, payload, attempt, tries, deaths, place, run_at, deadline_at,
    cancel_requested, created_at, ended_at)
values ('default', ?, ?, 'chat', 'succeeded', '{}', 2, 0, 0, 0, 0, 1000, 0, 0, 10)"""
AN_ANSWER = "insert into answers values ('default', ?, 2, ?, 0)"


def store(
    *,
    state: str = "succeeded",
    attempt: int = 1,
    answers: Iterable[tuple[int, str]] = ((1, TEXT),),
    ended_at: float | None = 10.0,
) -> Store:
    code = None if state == "succeeded" else "dead_letter"
    return Store({JOB: Row(state, attempt, DEADLINE, ended_at, code)}, {JOB: list(answers)})


def acked() -> dict[str, Any]:
    return {"what": "acked", "job": JOB}


def opened(last: int | None = None, reader: str = "r") -> dict[str, Any]:
    return {"what": "opened", "job": JOB, "reader": reader, "last": last}


def frame(seq: int, type_: str, reader: str = "r", **data: Any) -> dict[str, Any]:
    return {"what": "frame", "job": JOB, "reader": reader, "seq": seq, "type": type_, "data": data}


def delta(attempt: int, n: int, text: str) -> dict[str, Any]:
    return frame(seq_of(attempt, n), DELTA, delta=text)


def terminal(
    attempt: int = 1, status: str = "completed", text: str | None = TEXT
) -> dict[str, Any]:
    answer = None if text is None else {"text": text}
    return frame(seq_of(attempt, LAST_N), f"response.{status}", response={"answer": answer})


def seen(status: str = "completed", text: str | None = TEXT) -> dict[str, Any]:
    return {"what": "seen", "job": JOB, "status": status, "text": text}


def cut() -> dict[str, Any]:
    return {"what": "closed", "job": JOB, "reader": "r", "how": "cut"}


def good() -> list[dict[str, Any]]:
    words = [delta(1, 3, "one "), delta(1, 4, "two "), delta(1, 5, "three ")]
    return [
        acked(),
        opened(),
        frame(0, "response.created"),
        frame(1, "response.queued"),
        *words,
        terminal(),
        seen(),
    ]


def entries(*written: tuple[int, int] | tuple[int, int, str]) -> list[Entry]:
    log = []
    for attempt, n, *types in written:
        default = FENCE if n == 0 else DELTA
        type_ = types[0] if types else default
        log.append(Entry(JOB, seq_of(attempt, n), type_))
    return log


def found(
    store_: Store,
    transcript: Iterable[Mapping[str, Any]] = (),
    *,
    log: Iterable[Entry] = (),
    moves: Iterable[Move] = (),
) -> dict[str, int]:
    counts = count(audit(store_, log, transcript, moves=moves))
    return {kind: number for kind, number in counts.items() if number}


class TestGoodHistories:
    def test_a_plain_run_is_clean(self) -> None:
        log = entries((1, 0), (1, 1), (1, 2), (1, 3), (1, 4, END))
        moves = [Move(JOB, "running", 1), Move(JOB, "succeeded", 1)]

        assert found(store(), good(), log=log, moves=moves) == {}

    def test_a_stream_that_was_cut_and_resumed_is_clean(self) -> None:
        first = [acked(), opened(), frame(0, "response.created"), delta(1, 3, "one "), cut()]
        second = [opened(seq_of(1, 3)), delta(1, 5, "two three "), terminal(), seen()]

        assert found(store(), [*first, *second]) == {}

    def test_a_takeover_that_continues_is_clean(self) -> None:
        log = entries((1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (2, 3, END))
        transcript = [
            acked(),
            opened(),
            delta(1, 1, "one "),
            delta(2, 1, "two "),
            delta(2, 2, "three "),
            terminal(2),
        ]

        assert found(store(attempt=2, answers=[(2, TEXT)]), transcript, log=log) == {}

    def test_a_takeover_that_restarts_is_clean(self) -> None:
        transcript = [
            acked(),
            opened(),
            delta(1, 1, "uno "),
            frame(seq_of(2, 1), RESTARTED),
            delta(2, 2, TEXT),
            terminal(2),
        ]

        assert found(store(attempt=2, answers=[(2, TEXT)]), transcript) == {}

    def test_a_lost_log_that_is_told_again_from_its_start_is_clean(self) -> None:
        transcript = [
            acked(),
            opened(),
            delta(2, 9, "one "),
            frame(1, RESTARTED),
            delta(1, 1, "one two "),
            delta(3, 1, "three "),
            terminal(3),
        ]

        assert found(store(attempt=3, answers=[(3, TEXT)]), transcript) == {}

    def test_a_log_that_was_lost_and_written_again_is_clean(self) -> None:
        log = [
            *entries((1, 0), (1, 1), (2, 0)),
            Entry(JOB, 0, GONE),
            *entries((1, 0), (1, 1), (2, 0), (2, 1), (2, 2, END)),
        ]

        assert found(store(attempt=2, answers=[(2, TEXT)]), log=log) == {}

    def test_a_submit_repeated_after_a_restart_of_the_server_is_clean(self) -> None:
        refused = {"what": "closed", "job": JOB, "reader": "r", "how": "refused"}

        assert found(store(), [acked(), acked(), opened(), refused, *good()[1:]]) == {}

    def test_a_client_that_only_looks_is_clean(self) -> None:
        looks = [seen("queued", None), seen("in_progress", None), seen(), seen()]

        assert found(store(), [acked(), *looks]) == {}

    def test_a_job_that_its_deadline_ended_is_not_wrongly_dead(self) -> None:
        late = store(state="failed", attempt=2, answers=(), ended_at=DEADLINE + 1)

        assert found(late, [acked(), seen("failed", None)]) == {}

    def test_a_fence_raised_over_an_ended_job_is_clean(self) -> None:
        assert found(store(), log=entries((1, 0), (1, 1), (1, 2, END), (2, 0))) == {}


class TestLost:
    def test_an_acknowledged_job_that_is_not_in_the_store(self) -> None:
        assert found(Store({}, {}), good()) == {"lost": 1}

    def test_a_job_that_never_ends(self) -> None:
        running = store(state="running", answers=(), ended_at=None)

        assert found(running, [acked(), seen("in_progress", None)]) == {"lost": 1}

    def test_a_success_without_an_answer(self) -> None:
        without = Store({JOB: Row("succeeded", 1, DEADLINE, 10.0)}, {})

        assert found(without, [acked(), seen(text=None)]) == {"lost": 1}

    def test_a_reader_without_a_terminal_event(self) -> None:
        assert found(store(), [acked(), opened(), delta(1, 3, TEXT), seen()]) == {"lost": 1}

    def test_a_job_whose_end_nobody_was_told(self) -> None:
        assert found(store(), [acked(), seen("in_progress", None)]) == {"lost": 1}


class TestDoubledAnswers:
    def test_two_stored_answers(self) -> None:
        two = store(attempt=2, answers=[(1, TEXT), (2, TEXT)])

        assert found(two, good())["doubled_answers"] == 1

    def test_two_finals_that_left_one_row(self) -> None:
        moves = [Move(JOB, "running", 2), Move(JOB, "succeeded", 2), Move(JOB, "succeeded", 2)]

        assert found(store(), good(), moves=moves) == {"doubled_answers": 1}

    def test_an_ended_job_that_runs_again(self) -> None:
        moves = [Move(JOB, "succeeded", 1), Move(JOB, "running", 2), Move(JOB, "succeeded", 2)]

        assert found(store(), good(), moves=moves) == {"doubled_answers": 1}

    def test_a_client_that_saw_two_finals(self) -> None:
        assert found(store(), [acked(), seen(), seen(text="another")]) == {"doubled_answers": 1}

    def test_a_client_that_saw_an_end_and_then_a_running_job(self) -> None:
        transcript = [acked(), seen(), seen("in_progress", None)]

        assert found(store(), transcript) == {"doubled_answers": 1}

    def test_a_client_that_was_told_another_end_than_the_store_holds(self) -> None:
        assert found(store(), [acked(), seen("failed", None)]) == {"doubled_answers": 1}

    def test_a_terminal_event_with_another_text_than_the_store_holds(self) -> None:
        transcript = [acked(), opened(), delta(1, 1, TEXT), terminal(text="another")]

        assert found(store(), transcript) == {"doubled_answers": 1}


class TestStreams:
    @pytest.mark.parametrize("missing", [3, 4, 5])
    def test_a_missing_piece_is_a_gap(self, missing: int) -> None:
        transcript = [fact for fact in good() if fact.get("seq") != seq_of(1, missing)]

        assert found(store(), transcript) == {"stream_gaps": 1}

    def test_a_repeated_piece_is_a_double(self) -> None:
        transcript = [
            acked(),
            opened(),
            delta(1, 3, "one "),
            cut(),
            opened(),
            delta(1, 4, "one two three "),
            terminal(),
        ]

        assert found(store(), transcript) == {"stream_doubles": 1}

    def test_an_id_that_does_not_rise_is_a_double(self) -> None:
        transcript = [
            acked(),
            opened(),
            frame(0, "response.created"),
            cut(),
            opened(),
            frame(0, "response.created"),
            delta(1, 3, TEXT),
            terminal(),
        ]

        assert found(store(), transcript) == {"stream_doubles": 1}

    def test_an_event_after_the_terminal_one_is_a_double(self) -> None:
        transcript = [*good()[:-1], frame(seq_of(1, LAST_N) + 1, "ragqueue:sources")]

        assert found(store(), transcript) == {"stream_doubles": 1}

    def test_an_exchanged_piece_is_both(self) -> None:
        transcript = [acked(), opened(), delta(1, 3, "one TWO three "), terminal()]

        assert found(store(), transcript) == {"stream_gaps": 1, "stream_doubles": 1}

    def test_a_restart_is_a_gap_where_nothing_asks_for_it(self) -> None:
        transcript = [
            acked(),
            opened(),
            delta(1, 1, "one "),
            frame(seq_of(2, 1), RESTARTED),
            delta(2, 2, TEXT),
            terminal(2),
        ]
        findings = audit(store(attempt=2, answers=[(2, TEXT)]), [], transcript, may_restart=False)

        assert [finding.kind for finding in findings] == ["stream_gaps"]

    def test_each_reader_is_judged_by_itself(self) -> None:
        other = [
            opened(reader="s"),
            frame(seq_of(1, 3), DELTA, reader="s", delta="one "),
            frame(seq_of(1, LAST_N), "response.completed", "s", **terminal()["data"]),
        ]

        assert found(store(), [*good(), *other]) == {"stream_gaps": 1}


class TestZombieWrites:
    def test_an_entry_behind_the_fence_of_a_newer_attempt(self) -> None:
        log = entries((1, 0), (1, 1), (2, 0), (1, 2), (2, 1), (2, 2, END))

        assert found(store(attempt=2, answers=[(2, TEXT)]), log=log) == {"zombie_writes": 1}

    def test_an_entry_after_the_end(self) -> None:
        log = entries((1, 0), (1, 1), (1, 2, END), (1, 3))

        assert found(store(), log=log) == {"zombie_writes": 1}

    def test_an_entry_of_an_attempt_that_nobody_claimed(self) -> None:
        log = entries((1, 0), (2, 0), (2, 1))

        assert found(store(state="cancelled", answers=()), log=log) == {"zombie_writes": 1}

    def test_an_answer_of_an_older_attempt(self) -> None:
        assert found(store(attempt=2, answers=[(1, TEXT)])) == {"zombie_writes": 1}

    def test_a_reader_that_is_shown_text_of_an_older_attempt(self) -> None:
        transcript = [
            acked(),
            opened(),
            delta(2, 1, "one "),
            delta(1, 9, "two "),
            delta(2, 2, "three "),
            terminal(2),
        ]

        assert found(store(attempt=2, answers=[(2, TEXT)]), transcript) == {
            "zombie_writes": 1,
            "stream_doubles": 1,
        }


class TestWronglyDead:
    @pytest.mark.parametrize("state", ["failed", "cancelled"])
    def test_a_job_that_only_deaths_happened_to(self, state: str) -> None:
        transcript = [acked(), seen(state, None)]

        assert found(store(state=state, answers=()), transcript) == {"wrongly_dead": 1}


def test_a_difference_names_what_is_missing_and_what_is_too_much() -> None:
    assert difference("abc", "abc") == ("", "")
    assert difference("hello world", "hello hello world") == ("", "hello ")
    # Where it begins is a matter of taste.
    assert difference("one two three", "one three") == ("wo t", "")
    assert difference("one", "") == ("one", "")


def test_damage_is_counted_once_a_job() -> None:
    findings = [Finding("lost", "a", ""), Finding("lost", "a", "too"), Finding("lost", "b", "")]

    assert count(findings)["lost"] == 2


def test_the_store_is_read_from_the_file_of_the_records(tmp_path: Path) -> None:
    records = open_records(tmp_path)
    migrate(records.engine)
    records.close()
    with sqlite_module.connect(tmp_path / "records.sqlite3") as connection:
        for job_id, kind in ((JOB, "chat"), ("b", "ingest")):
            connection.execute(A_JOB, (job_id, kind))
        connection.execute(AN_ANSWER, (JOB, json.dumps({"text": TEXT})))
    connection.close()

    assert read_store(tmp_path / "records.sqlite3") == Store(
        {JOB: Row("succeeded", 2, DEADLINE, 10.0)}, {JOB: [(2, TEXT)]}
    )

"""What a process counts reaches the records once."""

import pytest

from ragqueue import telemetry


def test_what_was_counted_is_given_once_to_all_workers_of_a_process() -> None:
    telemetry.take_counts()
    telemetry.TOKENS.inc(3)

    assert telemetry.take_counts() == {("ragqueue_tokens_total", "{}"): 3.0}
    assert telemetry.take_counts() == {}


def test_the_sums_of_all_workers_are_shown_under_the_names_they_count_with() -> None:
    sums = {
        ("ragqueue_jobs_ended_total", '{"kind": "chat", "state": "failed"}'): 2.0,
        ("ragqueue_run_seconds_count", '{"kind": "chat"}'): 5.0,
    }

    shown = telemetry.exposition(sums, [("ragqueue_workers", {}, 1)]).decode()

    assert 'ragqueue_jobs_ended_total{kind="chat",state="failed"} 2.0' in shown
    assert 'ragqueue_run_seconds_count{kind="chat"} 5.0' in shown
    assert "# TYPE ragqueue_workers gauge\nragqueue_workers 1.0" in shown


def test_what_could_not_be_stored_is_given_back_and_returned_again() -> None:
    telemetry.take_counts()
    telemetry.TOKENS.inc(2)
    telemetry.give_back(telemetry.take_counts())

    assert telemetry.take_counts() == {("ragqueue_tokens_total", "{}"): 2.0}


def test_where_a_beat_takes_the_counts_only_the_records_tell_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(telemetry, "_taker", False)
    key = ("ragqueue_loop_failures_total", '{"loop": "ringer"}')
    shown = 'ragqueue_loop_failures_total{loop="ringer"} 5.0'
    telemetry.LOOP_FAILURES.labels("ringer")
    telemetry.take_counts()
    telemetry.LOOP_FAILURES.labels("ringer").inc(2)

    # A total that is added up from two places at two moments would fall, which Prometheus takes
    # for a restart.
    assert shown in telemetry.exposition({key: 5.0}, []).decode()


def test_a_process_that_only_serves_tells_its_own_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry.take_counts()
    monkeypatch.setattr(telemetry, "_taker", False)
    telemetry.LOOP_FAILURES.labels("hub").inc(2)
    key = ("ragqueue_loop_failures_total", '{"loop": "hub"}')

    shown = telemetry.exposition({key: 5.0}, []).decode()

    assert 'ragqueue_loop_failures_total{loop="hub"} 7.0' in shown
    telemetry.take_counts()

"""What a process counts reaches the records once."""

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

"""A transcript, the run that takes it over."""

from typing import Any

import pytest

from ragqueue.answering.transcript import Transcript
from ragqueue.events.pen import Pen
from ragqueue.testing.contracts.generators import TEXTS, make_hits
from ragqueue.types import Event

HITS = make_hits(*TEXTS)
TOKENS = [
    "Rings may",
    " arrive twice [1",
    "] and [2, 9].",
    " The log",
    " keeps every",
    " token [3]",
    " in order [",
    "12",
]


class NoBatcher:
    def notice(self, pen: Pen) -> None:
        pass


def pen_over(kept: list[Event]) -> Pen:
    """Return the pen of a run that finds these events in the log."""
    pen = Pen(NoBatcher(), "job", 2)  # type: ignore[arg-type]
    pen.kept = list(kept)
    return pen


def begun(pen: Pen, *, continues: bool = True) -> Transcript:
    transcript = Transcript(pen)
    transcript.begin(HITS, continues=continues)
    return transcript


def written(tokens: list[str] = TOKENS) -> list[Event]:
    """Return the events of a transcript that no run had to take over."""
    pen = pen_over([])
    transcript = begun(pen)
    for token in tokens:
        transcript.write(token)
    transcript.close("stop")
    return pen.kept


def told(events: list[Event]) -> tuple[str, list[tuple[str, Any]]]:
    """Return the text, and all events but those of the text."""
    deltas = [event.data["delta"] for event in events if event.type.endswith("text.delta")]
    return "".join(deltas), [
        (event.type, event.data) for event in events if not event.type.endswith("text.delta")
    ]


WHOLE = written()


@pytest.mark.parametrize("cut", range(len(WHOLE) + 1))
def test_a_transcript_is_taken_over_after_any_event_and_nothing_is_written_twice(cut: int) -> None:
    pen = pen_over(WHOLE[:cut])

    transcript = begun(pen)
    transcript.write("".join(TOKENS)[len(transcript.text) :])
    transcript.close(transcript.finish or "stop")

    assert told(pen.kept) == told(WHOLE)
    assert pen.kept[:cut] == WHOLE[:cut]


def test_the_outcome_is_the_same_for_the_run_that_took_over() -> None:
    pen = pen_over(WHOLE[:5])
    transcript = begun(pen)
    transcript.write("".join(TOKENS)[len(transcript.text) :])
    transcript.close("stop")

    result = transcript.outcome({"finish": "stop"}).result

    assert result is not None
    assert result["text"] == "".join(TOKENS)
    assert [citation["n"] for citation in result["citations"]] == [1, 2, 3]
    assert result["invalid_markers"] == [9]
    assert result["log_end"] == pen.end


def test_a_transcript_that_cannot_be_continued_ends_incomplete_and_a_new_one_begins() -> None:
    pen = pen_over(WHOLE[:4])
    shown = Transcript(pen).text

    transcript = begun(pen, continues=False)
    transcript.write("Anew.")
    transcript.close("stop")

    new = pen.kept[4:]
    assert [event.type for event in new[:2]] == ["ragqueue:restarted", "response.output_item.done"]
    assert new[1].data["item"]["status"] == "incomplete"
    assert new[1].data["item"]["content"][0]["text"] == shown
    assert told(new)[0] == transcript.text == "Anew."
    assert {event.data["output_index"] for event in new[2:]} == {2}

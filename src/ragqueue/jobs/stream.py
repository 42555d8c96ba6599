"""The events of a chat as its reader sees them, by the names of OpenAI's Responses API.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from collections.abc import Mapping
from typing import Any

from ragqueue.events.base import END, FENCE
from ragqueue.jobs.views import chat_view
from ragqueue.types import CREATED_SEQ, LAST_N, QUEUED_SEQ, Event, Job, seq_of

CREATED = "response.created"
QUEUED = "response.queued"
IN_PROGRESS = "response.in_progress"
ITEM_ADDED = "response.output_item.added"
ITEM_DONE = "response.output_item.done"
SEARCHING = "response.file_search_call.searching"
SEARCHED = "response.file_search_call.completed"
PART_ADDED = "response.content_part.added"
PART_DONE = "response.content_part.done"
DELTA = "response.output_text.delta"
TEXT_DONE = "response.output_text.done"
ANNOTATION = "response.output_text.annotation.added"
SOURCES = "ragqueue:sources"  # the passages of the prompt, and how far they carry an answer
RESTARTED = "ragqueue:restarted"  # tells readers to drop what they were shown
_OF_THE_LOG = (FENCE, END)


def opening(job: Job) -> list[Event]:
    """Return the two events that stand before every log."""
    response = {
        "id": job.id,
        "object": "response",
        "status": "queued",
        "created_at": job.created_at,
    }
    return [
        Event(seq=CREATED_SEQ, type=CREATED, data={"response": response}, at=job.created_at),
        Event(seq=QUEUED_SEQ, type=QUEUED, data={"response": response}, at=job.created_at),
    ]


def terminal(job: Job, answer: Mapping[str, Any] | None) -> Event:
    """Return the event that ends the stream of an ended job."""
    response = {"object": "response"} | chat_view(job, answer)
    seq = seq_of(job.attempt, LAST_N)
    return Event(
        seq=seq,
        type=f"response.{response['status']}",
        data={"response": response},
        at=job.ended_at or 0.0,
    )


def retold(job: Job, answer: Mapping[str, Any]) -> list[Event]:
    """Return an ended job's text and annotations as events, for a log that is gone."""
    delta = {"output_index": 1, "content_index": 0, "delta": answer["text"]}
    events: list[tuple[str, Mapping[str, Any]]] = [(DELTA, delta)]
    for index, citation in enumerate(answer["citations"]):
        events.append((ANNOTATION, annotation(citation, index)))
    first_n = LAST_N - len(events)  # just below the terminal event, whatever the log held
    return [
        Event(seq=seq_of(job.attempt, first_n + n), type=type_, data=data, at=job.ended_at or 0.0)
        for n, (type_, data) in enumerate(events)
    ]


def annotation(citation: Mapping[str, Any], index: int, output_index: int = 1) -> dict[str, Any]:
    """Return a citation as the annotation of a text item.

    Its offsets count Unicode code points of the document's text.
    """
    cited = {
        "type": "file_citation",
        "file_id": citation["document_id"],
        "index": citation["n"],
        **citation,
    }
    return {
        "output_index": output_index,
        "content_index": 0,
        "annotation_index": index,
        "annotation": cited,
    }


def coalesced(events: list[Event]) -> list[Event]:
    """Return the events that a reader is shown, without those of the log alone.

    Neighbouring deltas of one item are merged into the last of them.
    """
    merged: list[Event] = []
    for event in events:
        if event.type in _OF_THE_LOG:
            continue
        if event.type == DELTA and merged and _continues(merged[-1], event):
            text = merged[-1].data.get("delta", "") + event.data.get("delta", "")
            merged[-1] = Event(
                seq=event.seq, type=DELTA, data={**event.data, "delta": text}, at=event.at
            )
        else:
            merged.append(event)
    return merged


def _continues(last: Event, delta: Event) -> bool:
    same_item = last.data.get("output_index") == delta.data.get("output_index")
    return last.type == DELTA and same_item

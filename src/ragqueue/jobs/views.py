"""A job as its user sees it: the public words, and the events that are views of its row."""

from collections.abc import Mapping
from typing import Any

from ragqueue.types import CREATED_SEQ, LAST_N, QUEUED_SEQ, Event, Job, seq_of

DELTA = "response.output_text.delta"
ANNOTATION = "response.output_text.annotation.added"
RESTARTED = "ragqueue:restarted"  # tells readers to drop what they were shown

_STATUS = {
    "queued": "queued",
    "running": "in_progress",
    "succeeded": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}
_JOB = "id kind lane attempt tries deaths created_at started_at ended_at run_at deadline_at result retry_of"
_PUBLIC = ("text", "citations", "invalid_markers", "grounding", "nearest", "usage", "timings")


def status_of(job: Job, answer: Mapping[str, Any] | None = None) -> str:
    """Return the public word for the job's state."""
    cut = job.state == "succeeded" and answer is not None and answer.get("finish") == "length"
    return "incomplete" if cut else _STATUS[job.state]


def chat_view(job: Job, answer: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a chat job as `GET /chat/{id}` shows it."""
    error = (
        {"code": job.error_code, "message": job.error_message} if job.state == "failed" else None
    )
    if job.state == "succeeded" and answer is None:
        error = {
            "code": "answer_erased",
            "message": "the answer quoted a document that was deleted, and was erased with it",
        }
    shown = {key: answer[key] for key in _PUBLIC if key in answer} if answer is not None else None
    said = {
        "id": job.id,
        "status": status_of(job, answer),
        "question": job.payload.get("question", ""),
        "answer": shown,
        "error": error,
    }
    times = {"attempt": job.attempt, "created_at": job.created_at, "ended_at": job.ended_at}
    return said | times | {"metadata": job.payload.get("metadata") or {}}


def job_view(job: Job) -> dict[str, Any]:
    """Return any job as `GET /jobs` shows it."""
    error = {"code": job.error_code, "message": job.error_message} if job.error_code else None
    shown = {name: getattr(job, name) for name in _JOB.split()}
    return shown | {
        "status": _STATUS[job.state],
        "error": error,
        "document_id": job.payload.get("document_id"),
    }


def opening(job: Job) -> list[Event]:
    """Return the two events that stand before every log."""
    response = {
        "id": job.id,
        "object": "response",
        "status": "queued",
        "created_at": job.created_at,
    }
    names = {CREATED_SEQ: "response.created", QUEUED_SEQ: "response.queued"}
    return [Event(seq, name, {"response": response}, job.created_at) for seq, name in names.items()]


def terminal(job: Job, answer: Mapping[str, Any] | None) -> Event:
    """Return the event that ends the stream of an ended job."""
    response = {"object": "response"} | chat_view(job, answer)
    return Event(
        seq_of(job.attempt, LAST_N),
        f"response.{response['status']}",
        {"response": response},
        job.ended_at or 0.0,
    )


def retold(job: Job, answer: Mapping[str, Any]) -> list[Event]:
    """Return an ended job's text and annotations as events made from its answer, for a log that is gone."""
    told = [(DELTA, {"output_index": 1, "content_index": 0, "delta": answer["text"]})]
    told += [
        (ANNOTATION, annotation(citation, index))
        for index, citation in enumerate(answer["citations"])
    ]
    first = seq_of(
        job.attempt, LAST_N - len(told)
    )  # just below the terminal event, whatever the log held
    return [
        Event(first + n, type_, data, job.ended_at or 0.0) for n, (type_, data) in enumerate(told)
    ]


def annotation(citation: Mapping[str, Any], index: int, output_index: int = 1) -> dict[str, Any]:
    """Return a citation as the annotation of a text item; offsets count Unicode code points of the document's text."""
    cited = {
        "type": "file_citation",
        "file_id": citation["document_id"],
        "index": citation["n"],
    } | dict(citation)
    return {
        "output_index": output_index,
        "content_index": 0,
        "annotation_index": index,
        "annotation": cited,
    }

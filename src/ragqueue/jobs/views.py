"""Jobs as their users see them, in the public words."""

from collections.abc import Mapping
from typing import Any

from ragqueue.types import Job

_STATUS = {
    "queued": "queued",
    "running": "in_progress",
    "succeeded": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}
# Of an answer, what its reader sees.
_OF_AN_ANSWER = (
    "text",
    "citations",
    "invalid_markers",
    "grounding",
    "nearest",
    "usage",
    "timings",
)


def status_of(job: Job, answer: Mapping[str, Any] | None = None) -> str:
    """Return the public word for the job's state; an answer that was cut off is "incomplete"."""
    if job.state == "succeeded" and answer is not None and answer.get("finish") == "length":
        return "incomplete"
    return _STATUS[job.state]


def chat_view(job: Job, answer: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a chat job as `GET /chat/{id}` shows it."""
    visible = None
    if answer is not None:
        visible = {name: answer[name] for name in _OF_AN_ANSWER if name in answer}
    return {
        "id": job.id,
        "status": status_of(job, answer),
        "question": job.payload.get("question", ""),
        "answer": visible,
        "error": _chat_error(job, answer),
        "attempt": job.attempt,
        "created_at": job.created_at,
        "ended_at": job.ended_at,
        "metadata": job.payload.get("metadata") or {},
    }


def _chat_error(job: Job, answer: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if job.state == "failed":
        return {"code": job.error_code, "message": job.error_message}
    if job.state == "succeeded" and answer is None:
        message = "the answer quoted a document that was deleted, and was erased with it"
        return {"code": "answer_erased", "message": message}
    return None


def job_view(job: Job) -> dict[str, Any]:
    """Return any job as `GET /jobs` shows it."""
    error = None
    if job.error_code:
        error = {"code": job.error_code, "message": job.error_message}
    return {
        "id": job.id,
        "kind": job.kind,
        "lane": job.lane,
        "attempt": job.attempt,
        "tries": job.tries,
        "deaths": job.deaths,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "run_at": job.run_at,
        "deadline_at": job.deadline_at,
        "result": job.result,
        "retry_of": job.retry_of,
        "status": _STATUS[job.state],
        "error": error,
        "document_id": job.payload.get("document_id"),
    }

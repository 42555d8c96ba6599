"""Questions: `POST /chat` in its three forms, and what can be done with the job that it makes."""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Header
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import JSONResponse, Response, StreamingResponse

from ragqueue import telemetry
from ragqueue.api.access import Caller, Collection, EncodableText, Parts, Words, check_question, found
from ragqueue.errors import Conflict, InvalidRequest
from ragqueue.jobs.reconcile import cancel, erase_jobs
from ragqueue.jobs.submit import Idempotency
from ragqueue.jobs.views import chat_view, status_of
from ragqueue.records import jobs
from ragqueue.types import Event, Job, terminal_seq
from ragqueue.wiring import Runtime

router = APIRouter(tags=["chat"])
_LONGEST_WAIT = 120.0  # seconds of `Prefer: wait=N`
_json = msgspec.json.Encoder().encode
_Given = Annotated[str, Header()]
Metadata = dict[Annotated[str, Field(max_length=64), EncodableText], Annotated[str, Field(max_length=512), EncodableText]]


class Question(BaseModel):
    """The body of `POST /chat`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"question": "How do I declare a query parameter?"}]})

    question: Words = Field(description="What to answer, in plain words")
    collection: Collection | None = Field(None, description="Only documents of this collection; by default all of yours")
    limit: int | None = Field(None, ge=1, le=50, description="Passages that the answer is written from")
    model: str | None = Field(None, description="The model that must answer: the one that is configured")
    metadata: Metadata | None = Field(None, max_length=16, description="Up to 16 short texts of yours, given back with the answer")


async def chat_of(chat_id: str, caller: Caller, parts: Parts) -> Job:
    """Return the caller's chat job. Raises NotFound, also for what is another tenant's."""
    job = await parts.records.read(jobs.get, caller.tenant, chat_id)
    return found(job if job and job.kind == "chat" else None, f"chat {chat_id!r}")


Chat = Annotated[Job, Depends(chat_of)]
Key = Annotated[str | None, Header(min_length=1, max_length=255)]
Seq = Annotated[int, Field(ge=0, lt=1 << 62)]  # the id of an event
LastSeen = Annotated[Seq | None, BeforeValidator(lambda text: text or None), Header()]


@router.post("/chat", status_code=202)
async def ask(
    question: Question, caller: Caller, parts: Parts, accept: _Given = "", prefer: _Given = "", idempotency_key: Key = None
) -> Response:
    """Accept a question durably: 202 with links, or its event stream, or with `Prefer: wait=N` the answer if it is ready in time."""
    await check_question(parts, caller.tenant, question.question, question.collection)
    if question.model not in (None, parts.settings.llm_model, parts.generator.model):
        raise InvalidRequest(f"model is {question.model!r}: this server answers with {parts.settings.llm_model!r}")
    payload = question.model_dump(exclude_none=True)
    digest = hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()
    idempotency = Idempotency(caller.caller, idempotency_key, digest) if idempotency_key else None
    job, _ = await parts.submitter.submit(caller.tenant, "chat", payload, idempotency=idempotency)
    if "text/event-stream" in accept:
        return _stream(parts, job)
    path = f"/chat/{job.id}"
    if wait := re.search(r"wait=(\d+)", prefer):
        with suppress(TimeoutError):
            async with asyncio.timeout(min(_LONGEST_WAIT, float(wait[1]))):
                async for _ in parts.follower.follow(job):
                    pass
            return await _shown(parts, job, {"preference-applied": "wait", "content-location": path})
    links = {"self": path, "events": f"{path}/events", "cancel": f"{path}/cancel"}
    body = {"id": job.id, "status": status_of(job), "links": links}
    return JSONResponse(body, 202, {"location": path, "retry-after": "1"})


@router.get("/chat/{chat_id}")
async def show(job: Chat, parts: Parts) -> Response:
    """Return a question with its state and, once there is one, its answer."""
    return await _shown(parts, job, {} if job.ended else {"retry-after": "1"})


@router.get("/chat/{chat_id}/events")
async def events(job: Chat, parts: Parts, last_event_id: LastSeen = None, starting_after: Seq | None = None) -> Response:
    """Stream a question's events; with `Last-Event-ID` or `starting_after` only those after it, 204 when there are no more."""
    after = starting_after if last_event_id is None else last_event_id
    if job.ended and after == terminal_seq(job.attempt):
        return Response(status_code=204)
    return _stream(parts, job, after)


@router.post("/chat/{chat_id}/cancel")
async def stop(job: Chat, parts: Parts) -> Response:
    """Ask for the end of an answer; asking twice does no harm."""
    await cancel(parts.records, parts.log, job.tenant, job.id)
    return await _shown(parts, job, {})


@router.delete("/chat/{chat_id}", status_code=204)
async def erase(job: Chat, parts: Parts) -> Response:
    """Erase an ended question with its answer and events."""
    if not job.ended:
        raise Conflict(f"chat {job.id!r} is still {status_of(job)}: cancel it first")
    await erase_jobs(parts.records, parts.log, [(job.tenant, job.id)])
    return Response(status_code=204)


async def _shown(parts: Runtime, job: Job, headers: dict[str, str]) -> Response:
    fresh = await parts.records.read(jobs.get, job.tenant, job.id) or job
    answer = await parts.records.read(jobs.answer, job.tenant, job.id) if fresh.ended else None
    return JSONResponse(chat_view(fresh, answer), 200, headers)


def _stream(parts: Runtime, job: Job, after: int | None = None) -> Response:
    """Send events as text/event-stream, in plain bytes (a tenth of the delay of an event-stream helper)."""

    async def frames() -> AsyncIterator[bytes]:
        lead = b"retry: 2000\n"  # inside the first event: a block of its own breaks some clients
        with telemetry.STREAMS.track_inprogress():
            async for batch in parts.follower.follow(job, after):
                # A keep-alive has one newline only: a blank line would dispatch an empty event in some clients.
                yield lead + b"".join(map(_frame, batch)) if batch else b": keep-alive\n"
                lead = b"" if batch else lead

    headers = {"cache-control": "no-store", "x-accel-buffering": "no", "content-location": f"/chat/{job.id}"}
    return StreamingResponse(frames(), media_type="text/event-stream", headers=headers)


def _frame(event: Event) -> bytes:
    data = _json({"type": event.type, "sequence_number": event.seq} | dict(event.data))
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.seq, event.type.encode(), data)

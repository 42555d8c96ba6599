"""Questions: `POST /chat` in its three forms, and what can be done with the job that it makes."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse, StreamingResponse
from msgspec import json
from pydantic import BeforeValidator, Field

from ragqueue import telemetry
from ragqueue.api.access import Caller, Hold, Parts, Tenant, Welcome, owned
from ragqueue.api.bodies import Accepted, ChatView, Question
from ragqueue.embedded import check_question
from ragqueue.errors import Conflict, InvalidRequest, Unauthorised
from ragqueue.jobs.control import cancel, erase_jobs
from ragqueue.jobs.views import chat_view, status_of
from ragqueue.records import jobs
from ragqueue.types import LAST_N, Event, Job, seq_of
from ragqueue.wiring import Runtime

router = APIRouter(tags=["chat"])
LONGEST_WAIT = 120.0  # seconds of `Prefer: wait=N`
STREAM = {"text/event-stream": {"schema": {"type": "string"}}}

Chat = Annotated[Job, owned(jobs.get, "chat")]
Given = Annotated[str, Header()]
Key = Annotated[str | None, Header(min_length=1, max_length=255)]
Seq = Annotated[int, Field(ge=0, lt=1 << 62)]  # the id of an event
LastSeen = Annotated[Seq | None, BeforeValidator(lambda text: text or None), Header()]


@router.post(
    "/chat",
    status_code=202,
    response_model=Accepted,
    responses={
        200: {
            "description": "The answer (`Prefer: wait=N`), or its events",
            "model": ChatView,
            "content": STREAM,
        }
    },
)
async def ask(
    body: Question,
    tenant: Tenant,
    caller: Caller,
    parts: Parts,
    hold: Hold,
    welcome: Welcome,
    accept: Given = "",
    prefer: Given = "",
    idempotency_key: Key = None,
) -> Response:
    """Accept a question durably: 202 with links, or its event stream, or with `Prefer: wait=N` the answer if it is ready in time."""
    await check_question(parts, tenant, body.question, body.collection)
    if body.model not in (None, parts.settings.llm_model, parts.generator.model):
        raise InvalidRequest(
            f"model is {body.model!r}: this server answers with {parts.settings.llm_model!r}"
        )
    streams = "text/event-stream" in accept
    wait = re.search(r"wait=(\d{1,9})", prefer)
    if streams or wait:
        hold()  # before anything is accepted
    idempotency = f"{caller} {idempotency_key}" if idempotency_key else None
    payload = body.model_dump(exclude_none=True)
    job = await parts.submitter.submit(tenant, "chat", payload, idempotency=idempotency)
    if streams:
        return await _stream(parts, job, None, welcome)
    path = f"/chat/{job.id}"
    ended = await _ended(parts, job, min(LONGEST_WAIT, float(wait[1]))) if wait else None
    if ended is not None:
        return await _shown(parts, ended, {"preference-applied": "wait", "content-location": path})
    links = {"self": path, "events": f"{path}/events", "cancel": f"{path}/cancel"}
    accepted = {"id": job.id, "status": status_of(job), "links": links}
    return JSONResponse(accepted, 202, {"location": path, "retry-after": "1"})


@router.get("/chat/{chat_id}", response_model=ChatView)
async def show_chat(job: Chat, parts: Parts) -> Response:
    """Return a question with its state and, once there is one, its answer."""
    return await _shown(parts, job, {} if job.ended else {"retry-after": "1"})


@router.get(
    "/chat/{chat_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {"description": "Its events", "content": STREAM},
        204: {"description": "There are no more"},
    },
)
async def follow_chat(
    job: Chat,
    parts: Parts,
    hold: Hold,
    welcome: Welcome,
    last_event_id: LastSeen = None,
    starting_after: Seq | None = None,
) -> Response:
    """Stream a question's events; with `Last-Event-ID` or `starting_after` only those after it, 204 when there are no more."""
    after = starting_after if last_event_id is None else last_event_id
    if job.ended and after == seq_of(job.attempt, LAST_N):
        return Response(status_code=204)
    hold()
    return await _stream(parts, job, after, welcome)


@router.post("/chat/{chat_id}/cancel", response_model=ChatView)
async def cancel_chat(job: Chat, parts: Parts) -> Response:
    """Ask for the end of an answer; asking twice does no harm."""
    return await _shown(
        parts, await cancel(parts.records, parts.log, job.tenant, job.id) or job, {}
    )


@router.delete("/chat/{chat_id}", status_code=204)
async def erase_chat(job: Chat, parts: Parts) -> Response:
    """Erase an ended question with its answer and events."""
    if not job.ended:
        raise Conflict(f"chat {job.id!r} is still {status_of(job)}: cancel it first")
    await erase_jobs(parts.records, parts.log, [(job.tenant, job.id)])
    return Response(status_code=204)


async def _ended(parts: Runtime, job: Job, seconds: float) -> Job | None:
    """Return the job once it has ended; None when that takes longer than so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            async for _ in parts.follower.follow(job):
                pass
    except TimeoutError:
        return None
    return await parts.records.read(jobs.get, job.tenant, job.id) or job


async def _shown(parts: Runtime, job: Job, headers: dict[str, str]) -> Response:
    answer = await parts.records.read(jobs.answer, job.tenant, job.id) if job.ended else None
    return JSONResponse(chat_view(job, answer), 200, headers)


async def _stream(
    parts: Runtime, job: Job, after: int | None, welcome: Callable[[], bool]
) -> Response:
    """Send events as text/event-stream, in plain bytes (a tenth of the delay of an event-stream helper). Raises Unavailable."""
    batches = await parts.follower.open(job, after, welcome=welcome)
    headers = {
        "cache-control": "no-store",
        "x-accel-buffering": "no",
        "content-location": f"/chat/{job.id}",
    }
    return StreamingResponse(
        _frames(batches, welcome), media_type="text/event-stream", headers=headers
    )


async def _frames(
    batches: AsyncIterator[list[Event]], welcome: Callable[[], bool]
) -> AsyncIterator[bytes]:
    lead = b"retry: 2000\n"  # inside the first event: a block of its own breaks some clients
    with telemetry.STREAMS.track_inprogress():
        async for batch in batches:
            for event in batch:
                data = json.encode(
                    {"type": event.type, "sequence_number": event.seq} | dict(event.data)
                )
                lead += b"id: %d\nevent: %b\ndata: %b\n\n" % (event.seq, event.type.encode(), data)
            # A keep-alive has one newline only: a blank line would dispatch an empty event in some clients.
            yield lead if batch else b": keep-alive\n"
            lead = b"" if batch else lead
        if not welcome():
            yield b"event: error\ndata: %b\n\n" % json.encode(_sent_away())


def _sent_away() -> dict[str, Any]:
    return {
        "type": "error",
        "code": Unauthorised.code,
        "message": "the API key of this stream is not valid any more",
    }

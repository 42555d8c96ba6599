"""Questions: `POST /chat` in its three forms, and what can be done with the job that it makes."""

import re
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse, StreamingResponse
from msgspec import json
from pydantic import BeforeValidator, Field

from ragqueue import telemetry
from ragqueue.api.access import Hold, OfTenant, OneChat, Welcome
from ragqueue.api.bodies import Accepted, ChatView, Question
from ragqueue.desk import Desk
from ragqueue.errors import Unauthorised
from ragqueue.jobs.views import chat_view, status_of
from ragqueue.types import LAST_N, Event, Job, seq_of

router = APIRouter(tags=["chat"])
LONGEST_WAIT = 120.0  # seconds of `Prefer: wait=N`
STREAM = {"text/event-stream": {"schema": {"type": "string"}}}

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
    desk: OfTenant,
    hold: Hold,
    welcome: Welcome,
    accept: Given = "",
    prefer: Given = "",
    idempotency_key: Key = None,
) -> Response:
    """Accept a question durably: 202 with links, or its event stream, or with `Prefer: wait=N` the answer if it is ready in time."""
    streams = "text/event-stream" in accept
    wait = re.search(r"wait=(\d{1,9})", prefer)
    if streams or wait:
        hold()  # before anything is accepted
    job = await desk.ask(
        body.question,
        collection=body.collection,
        limit=body.limit,
        model=body.model,
        metadata=body.metadata,
        idempotency_key=idempotency_key,
    )
    if streams:
        return await _stream(desk, job, None, welcome)
    path = f"/chat/{job.id}"
    if wait:
        ended = await desk.wait(job, min(LONGEST_WAIT, float(wait[1])))
        if ended is not None:
            headers = {"preference-applied": "wait", "content-location": path}
            return await _chat(desk, ended, headers)
    links = {"self": path, "events": f"{path}/events", "cancel": f"{path}/cancel"}
    accepted = {"id": job.id, "status": status_of(job), "links": links}
    return JSONResponse(accepted, 202, {"location": path, "retry-after": "1"})


@router.get("/chat/{chat_id}", response_model=ChatView)
async def show_chat(job: OneChat, desk: OfTenant) -> Response:
    """Return a question with its state and, once there is one, its answer."""
    headers = {} if job.ended else {"retry-after": "1"}
    return await _chat(desk, job, headers)


@router.get(
    "/chat/{chat_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {"description": "Its events", "content": STREAM},
        204: {"description": "There are no more"},
    },
)
async def follow_chat(
    job: OneChat,
    desk: OfTenant,
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
    return await _stream(desk, job, after, welcome)


@router.post("/chat/{chat_id}/cancel", response_model=ChatView)
async def cancel_chat(job: OneChat, desk: OfTenant) -> Response:
    """Ask for the end of an answer; asking twice does no harm."""
    return await _chat(desk, await desk.cancel(job.id), {})


@router.delete("/chat/{chat_id}", status_code=204)
async def erase_chat(job: OneChat, desk: OfTenant) -> Response:
    """Erase an ended question with its answer and events."""
    await desk.erase_chat(job)
    return Response(status_code=204)


async def _chat(desk: Desk, job: Job, headers: dict[str, str]) -> Response:
    return JSONResponse(chat_view(job, await desk.answer(job)), 200, headers)


async def _stream(desk: Desk, job: Job, after: int | None, welcome: Callable[[], bool]) -> Response:
    """Send events as text/event-stream. Raises Unavailable.

    They are plain bytes: a tenth of the delay of an event-stream helper.
    """
    batches = await desk.follow(job, after, welcome=welcome)
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

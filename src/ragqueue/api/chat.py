"""Questions: `POST /chat` in its three forms, and what can be done with the job that it makes."""

import re
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse, StreamingResponse
from msgspec import json
from pydantic import BeforeValidator, Field

from ragqueue import telemetry
from ragqueue.api.access import CountStream, OfTenant, OneChat, Welcome
from ragqueue.api.bodies import Accepted, ChatView, Question
from ragqueue.desk import Desk
from ragqueue.errors import Unauthorised
from ragqueue.jobs.views import chat_view, status_of
from ragqueue.types import LAST_N, Event, Job, seq_of

router = APIRouter(tags=["chat"])
LONGEST_WAIT = 120.0  # seconds of `Prefer: wait=N`
STREAM = {"text/event-stream": {"schema": {"type": "string"}}}


def _none_if_empty(text: str | None) -> str | None:
    return text or None


TextHeader = Annotated[str, Header()]
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255)]
Seq = Annotated[int, Field(ge=0, lt=1 << 62)]  # the id of an event
LastEventId = Annotated[Seq | None, BeforeValidator(_none_if_empty), Header()]


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
    description="Accept a question durably: 202 with links, or its event stream, "
    "or with `Prefer: wait=N` the answer if it is ready in time.",
)
async def ask(
    body: Question,
    desk: OfTenant,
    count_stream: CountStream,
    welcome: Welcome,
    accept: TextHeader = "",
    prefer: TextHeader = "",
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Accept a question durably, and answer in the form that the headers ask for."""
    wants_stream = "text/event-stream" in accept
    seconds = _seconds_to_wait(prefer)
    if wants_stream or seconds is not None:
        count_stream()  # before anything is accepted
    job = await desk.ask(
        body.question,
        collection=body.collection,
        limit=body.limit,
        model=body.model,
        metadata=body.metadata,
        idempotency_key=idempotency_key,
    )
    if wants_stream:
        return await _event_stream(desk, job, None, welcome)
    if seconds is not None:
        ended_job = await desk.wait(job, seconds)
        if ended_job is not None:
            headers = {"preference-applied": "wait", "content-location": f"/chat/{job.id}"}
            return await _chat(desk, ended_job, headers)
    return _accepted(job)


def _seconds_to_wait(prefer: str) -> float | None:
    """Return how long a caller wants to wait for the answer, None when he does not."""
    wait = re.search(r"wait=(\d{1,9})", prefer)
    if wait is None:
        return None
    return min(LONGEST_WAIT, float(wait[1]))


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
    description="Stream a question's events; with `Last-Event-ID` or `starting_after` "
    "only those after it, 204 when there are no more.",
)
async def follow_chat(
    job: OneChat,
    desk: OfTenant,
    count_stream: CountStream,
    welcome: Welcome,
    last_event_id: LastEventId = None,
    starting_after: Seq | None = None,
) -> Response:
    """Stream a question's events, of a reader who comes back only those that he lacks."""
    after = starting_after if last_event_id is None else last_event_id
    if job.ended and after == seq_of(job.attempt, LAST_N):
        return Response(status_code=204)
    count_stream()
    return await _event_stream(desk, job, after, welcome)


@router.post("/chat/{chat_id}/cancel", response_model=ChatView)
async def cancel_chat(job: OneChat, desk: OfTenant) -> Response:
    """Ask for the end of an answer; asking twice does no harm."""
    cancelled = await desk.cancel(job.id)
    return await _chat(desk, cancelled, {})


@router.delete("/chat/{chat_id}", status_code=204)
async def erase_chat(job: OneChat, desk: OfTenant) -> Response:
    """Erase an ended question with its answer and events."""
    await desk.erase_chat(job)
    return Response(status_code=204)


def _accepted(job: Job) -> Response:
    """Show the links of a question that was accepted."""
    path = f"/chat/{job.id}"
    links = {"self": path, "events": f"{path}/events", "cancel": f"{path}/cancel"}
    body = {"id": job.id, "status": status_of(job), "links": links}
    headers = {"location": path, "retry-after": "1"}
    return JSONResponse(body, status_code=202, headers=headers)


async def _chat(desk: Desk, job: Job, headers: dict[str, str]) -> Response:
    """Show a question with its answer."""
    answer = await desk.answer(job)
    return JSONResponse(chat_view(job, answer), headers=headers)


async def _event_stream(
    desk: Desk, job: Job, after: int | None, welcome: Callable[[], bool]
) -> Response:
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
    """Write each batch as blocks of text/event-stream, an empty one as a keep-alive.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    # Inside the first event: a block of its own breaks some clients.
    blocks = b"retry: 2000\n"
    with telemetry.STREAMS.track_inprogress():
        async for batch in batches:
            if not batch:
                # One newline only: a blank line would dispatch an empty event in some clients.
                yield b": keep-alive\n"
                continue
            for event in batch:
                blocks += _block(event)
            yield blocks
            blocks = b""
        if not welcome():
            yield _KEY_REVOKED


def _block(event: Event) -> bytes:
    data = json.encode({"type": event.type, "sequence_number": event.seq, **event.data})
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.seq, event.type.encode(), data)


_KEY_REVOKED = b"event: error\ndata: %b\n\n" % json.encode(
    {
        "type": "error",
        "code": Unauthorised.code,
        "message": "the API key of this stream is not valid any more",
    }
)

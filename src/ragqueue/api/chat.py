"""Questions: `POST /chat` in its three forms, and what can be done with the job that it makes; and jobs of every kind."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse
from msgspec import json
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ragqueue import telemetry
from ragqueue.api.access import Caller, Collection, Limit, Parts, Tenant, Words, owned
from ragqueue.embedded import check_question
from ragqueue.errors import Conflict, InvalidRequest
from ragqueue.jobs.reconcile import cancel, erase_jobs
from ragqueue.jobs.views import chat_view, job_view, status_of
from ragqueue.records import jobs
from ragqueue.storable import check_storable
from ragqueue.types import LAST_N, Job, State, seq_of
from ragqueue.wiring import Runtime

router = APIRouter(tags=["chat"])
_LONGEST_WAIT = 120.0  # seconds of `Prefer: wait=N`


class Question(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"question": "How do I declare a query parameter?"}]})
    question: Words = Field(description="What to answer, in plain words")
    collection: Collection | None = Field(None, description="Only documents of this collection; by default all of yours")
    limit: int | None = Field(None, ge=1, le=50, description="Passages that the answer is written from")
    model: str | None = Field(None, description="The model that must answer: the one that is configured")
    metadata: dict[Annotated[Words, Field(max_length=64)], Annotated[Words, Field(max_length=512)]] | None = Field(
        None, max_length=16, description="Up to 16 short texts of yours, given back with the answer"
    )


AnyJob = Annotated[Job, owned(jobs.get, "job")]
Chat = Annotated[Job, owned(jobs.get, "chat")]
Given = Annotated[str, Header()]
Key = Annotated[str | None, Header(min_length=1, max_length=255)]
Kind = Annotated[str | None, Query(max_length=40)]
Cursor = Annotated[str | None, Query(max_length=100)]
Seq = Annotated[int, Field(ge=0, lt=1 << 62)]  # the id of an event
LastSeen = Annotated[Seq | None, BeforeValidator(lambda text: text or None), Header()]


@router.post("/chat", status_code=202)
async def ask(
    body: Question, tenant: Tenant, caller: Caller, parts: Parts, accept: Given = "", prefer: Given = "", idempotency_key: Key = None
) -> Response:
    """Accept a question durably: 202 with links, or its event stream, or with `Prefer: wait=N` the answer if it is ready in time."""
    await check_question(parts, tenant, body.question, body.collection)
    if body.model not in (None, parts.settings.llm_model, parts.generator.model):
        raise InvalidRequest(f"model is {body.model!r}: this server answers with {parts.settings.llm_model!r}")
    payload = body.model_dump(exclude_none=True)
    idempotency = f"{caller} {idempotency_key}" if idempotency_key else None
    job = await parts.submitter.submit(tenant, "chat", payload, idempotency=idempotency)
    if "text/event-stream" in accept:
        return _stream(parts, job)
    path = f"/chat/{job.id}"
    if wait := re.search(r"wait=(\d+)", prefer):
        with suppress(TimeoutError):
            async with asyncio.timeout(min(_LONGEST_WAIT, float(wait[1]))):
                async for _ in parts.follower.follow(job):
                    pass
            fresh = await parts.records.read(jobs.get, tenant, job.id)
            return await _shown(parts, fresh or job, {"preference-applied": "wait", "content-location": path})
    links = {"self": path, "events": f"{path}/events", "cancel": f"{path}/cancel"}
    return JSONResponse({"id": job.id, "status": status_of(job), "links": links}, 202, {"location": path, "retry-after": "1"})


@router.get("/chat/{chat_id}")
async def show_chat(job: Chat, parts: Parts) -> Response:
    """Return a question with its state and, once there is one, its answer."""
    return await _shown(parts, job, {} if job.ended else {"retry-after": "1"})


@router.get("/chat/{chat_id}/events")
async def events(job: Chat, parts: Parts, last_event_id: LastSeen = None, starting_after: Seq | None = None) -> Response:
    """Stream a question's events; with `Last-Event-ID` or `starting_after` only those after it, 204 when there are no more."""
    after = starting_after if last_event_id is None else last_event_id
    return Response(status_code=204) if job.ended and after == seq_of(job.attempt, LAST_N) else _stream(parts, job, after)


@router.post("/chat/{chat_id}/cancel")
async def cancel_chat(job: Chat, parts: Parts) -> Response:
    """Ask for the end of an answer; asking twice does no harm."""
    return await _shown(parts, await cancel(parts.records, parts.log, job.tenant, job.id) or job, {})


@router.delete("/chat/{chat_id}", status_code=204)
async def erase(job: Chat, parts: Parts) -> Response:
    """Erase an ended question with its answer and events."""
    if not job.ended:
        raise Conflict(f"chat {job.id!r} is still {status_of(job)}: cancel it first")
    await erase_jobs(parts.records, parts.log, [(job.tenant, job.id)])
    return Response(status_code=204)


@router.get("/jobs", tags=["jobs"])
async def list_jobs(
    tenant: Tenant, parts: Parts, state: State | None = None, kind: Kind = None, after: Cursor = None, limit: Limit = 100
) -> dict[str, Any]:
    """List jobs, newest first; `next`, given as `after`, continues the list."""
    place = place_of(after) if after else None
    query = partial(jobs.listed, tenant=tenant, state=state, kind=kind, after=place, limit=limit + 1)
    rows = await parts.records.read(query)
    return {"jobs": [job_view(job) for job in rows[:limit]], "next": cursor_of(rows[limit - 1]) if len(rows) > limit else None}


@router.get("/jobs/{job_id}", tags=["jobs"])
async def show_job(job: AnyJob) -> dict[str, Any]:
    """Return a job."""
    return job_view(job)


@router.post("/jobs/{job_id}/cancel", tags=["jobs"])
async def cancel_job(job: AnyJob, parts: Parts) -> dict[str, Any]:
    """Ask for the end of a job; asking twice does no harm."""
    return job_view(await cancel(parts.records, parts.log, job.tenant, job.id) or job)


@router.post("/jobs/{job_id}/retry", status_code=202, tags=["jobs"])
async def retry_job(job: AnyJob, parts: Parts) -> dict[str, Any]:
    """Make a new job of a failed or cancelled one; the ended one stays as it is."""
    return job_view(await parts.submitter.retry(job))


def cursor_of(job: Job) -> str:
    """Return the place of a job in the list, as text: many jobs have one created_at."""
    return f"{job.created_at!r}_{job.id}"


def place_of(cursor: str) -> tuple[float, str]:
    """Return (created_at, id) of a cursor. Raises InvalidRequest for what this list has never given."""
    created_at, _, job_id = cursor.partition("_")
    try:
        place = float(created_at), job_id
    except ValueError as error:
        raise InvalidRequest(f"after is {cursor!r:.100}: use the `next` of the page before") from error
    check_storable("after", place)
    return place


async def _shown(parts: Runtime, job: Job, headers: dict[str, str]) -> Response:
    answer = await parts.records.read(jobs.answer, job.tenant, job.id) if job.ended else None
    return JSONResponse(chat_view(job, answer), 200, headers)


def _stream(parts: Runtime, job: Job, after: int | None = None) -> Response:
    """Send events as text/event-stream, in plain bytes (a tenth of the delay of an event-stream helper)."""

    async def frames() -> AsyncIterator[bytes]:
        lead = b"retry: 2000\n"  # inside the first event: a block of its own breaks some clients
        with telemetry.STREAMS.track_inprogress():
            async for batch in parts.follower.follow(job, after):
                for event in batch:
                    data = json.encode({"type": event.type, "sequence_number": event.seq} | dict(event.data))
                    lead += b"id: %d\nevent: %b\ndata: %b\n\n" % (event.seq, event.type.encode(), data)
                # A keep-alive has one newline only: a blank line would dispatch an empty event in some clients.
                yield lead if batch else b": keep-alive\n"
                lead = b"" if batch else lead

    headers = {"cache-control": "no-store", "x-accel-buffering": "no", "content-location": f"/chat/{job.id}"}
    return StreamingResponse(frames(), media_type="text/event-stream", headers=headers)

"""Questions: `POST /chat` in its three forms, and what can be done with the job that it makes."""

import asyncio
import hashlib
import json
import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from ragqueue.api.access import Caller, Parts, Words
from ragqueue.api.sse import stream
from ragqueue.errors import Conflict, InvalidRequest, NotFound
from ragqueue.jobs.reconcile import cancel, erase_jobs
from ragqueue.jobs.submit import Idempotency
from ragqueue.jobs.views import chat_view, status_of
from ragqueue.records import documents, jobs
from ragqueue.types import Job, terminal_seq
from ragqueue.wiring import Runtime

router = APIRouter(tags=["chat"])
_LONGEST_WAIT = 120.0  # seconds of `Prefer: wait=N`
_LONGEST_KEY = 255  # characters of an Idempotency-Key


class Question(BaseModel):
    """The body of `POST /chat`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"question": "How do I declare a query parameter?"}]})

    question: Words = Field(description="What to answer, in plain words")
    collection: Words | None = Field(None, max_length=200, description="Only documents of this collection; by default all of yours")
    limit: int | None = Field(None, ge=1, le=50, description="Passages that the answer is written from")
    model: str | None = Field(None, description="The model that must answer: the one that is configured")
    metadata: dict[Words, Words] | None = Field(None, description="Up to 16 short texts of yours, given back with the answer")


async def chat_of(chat_id: str, caller: Caller, parts: Parts) -> Job:
    """Return the caller's chat job. Raises NotFound, also for what is another tenant's."""
    job = await parts.records.read(jobs.get, caller.tenant, chat_id)
    if job is None or job.kind != "chat":
        raise NotFound(f"there is no chat {chat_id!r}")
    return job


Chat = Annotated[Job, Depends(chat_of)]


@router.post("/chat", status_code=202)
async def ask(
    question: Question,
    caller: Caller,
    parts: Parts,
    accept: Annotated[str, Header()] = "",
    prefer: Annotated[str, Header()] = "",
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Accept a question durably: 202 with links, or its event stream, or with `Prefer: wait=N` the answer if it is ready in time."""
    payload = await _payload(question, caller.tenant, parts)
    idempotency = None
    if idempotency_key is not None:
        if not 1 <= len(idempotency_key) <= _LONGEST_KEY:
            raise InvalidRequest(f"Idempotency-Key has {len(idempotency_key)} characters: 1 to {_LONGEST_KEY} are allowed")
        digest = hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()
        idempotency = Idempotency(caller.caller, idempotency_key, digest)
    job, _ = await parts.submitter.submit(caller.tenant, "chat", payload, idempotency=idempotency)
    if "text/event-stream" in accept:
        return stream(parts.follower.follow(job), location=f"/chat/{job.id}")
    wait = re.search(r"wait=(\d+)", prefer)
    if wait and await _ended(parts, job, min(_LONGEST_WAIT, float(wait.group(1)))):
        return await _shown(parts, job, {"preference-applied": "wait", "content-location": f"/chat/{job.id}"})
    links = {"self": f"/chat/{job.id}", "events": f"/chat/{job.id}/events", "cancel": f"/chat/{job.id}/cancel"}
    headers = {"location": links["self"], "retry-after": "1"}
    return JSONResponse({"id": job.id, "status": status_of(job), "links": links}, 202, headers)


@router.get("/chat/{chat_id}")
async def show(job: Chat, parts: Parts) -> Response:
    """Return a question with its state and, once there is one, its answer."""
    return await _shown(parts, job, {} if job.ended else {"retry-after": "1"})


@router.get("/chat/{chat_id}/events")
async def events(
    job: Chat,
    parts: Parts,
    last_event_id: Annotated[str | None, Header()] = None,
    starting_after: Annotated[int | None, Query(ge=0)] = None,
) -> Response:
    """Stream a question's events; with `Last-Event-ID` or `starting_after` only those after it, 204 when there are no more."""
    if last_event_id and not last_event_id.isdecimal():
        raise InvalidRequest(f"Last-Event-ID is {last_event_id!r}: it must be the id of an event of this stream")
    after = int(last_event_id) if last_event_id else starting_after
    if after is not None and job.ended and after == terminal_seq(job.attempt):
        return Response(status_code=204)
    if after is not None and after >= 1 << 62:
        raise InvalidRequest(f"{after} is not the id of an event of this stream")
    return stream(parts.follower.follow(job, after), location=f"/chat/{job.id}")


@router.post("/chat/{chat_id}/cancel")
async def stop(job: Chat, caller: Caller, parts: Parts) -> Response:
    """Ask for the end of an answer; asking twice does no harm."""
    cancelled = await cancel(parts.records, parts.log, caller.tenant, job.id)
    return await _shown(parts, cancelled or job, {})


@router.delete("/chat/{chat_id}", status_code=204)
async def erase(job: Chat, parts: Parts) -> Response:
    """Erase an ended question with its answer and events."""
    if not job.ended:
        raise Conflict(f"chat {job.id!r} is still {status_of(job)}: cancel it first")
    await erase_jobs(parts.records, parts.log, [(job.tenant, job.id)])
    return Response(status_code=204)


async def _payload(question: Question, tenant: str, parts: Runtime) -> dict[str, Any]:
    most = parts.settings.max_question
    if not question.question.strip() or len(question.question) > most:
        raise InvalidRequest(f"question has {len(question.question):,} characters: 1 to {most:,} are allowed (RAGQUEUE_MAX_QUESTION)")
    if question.model not in (None, parts.settings.llm_model, parts.generator.model):
        raise InvalidRequest(f"model is {question.model!r}: this server answers with {parts.settings.llm_model!r}")
    if question.metadata and (len(question.metadata) > 16 or any(len(k) > 64 or len(v) > 512 for k, v in question.metadata.items())):
        raise InvalidRequest("metadata: at most 16 entries, names of 64 and values of 512 characters are allowed")
    if question.collection is not None and await parts.records.read(documents.generation, tenant, question.collection) is None:
        raise NotFound(f"there is no collection {question.collection!r}")
    return question.model_dump(exclude_none=True)


async def _ended(parts: Runtime, job: Job, seconds: float) -> bool:
    async def drain() -> None:
        async for _ in parts.follower.follow(job):
            pass

    try:
        await asyncio.wait_for(drain(), seconds)
    except TimeoutError:
        return False
    return True


async def _shown(parts: Runtime, job: Job, headers: dict[str, str]) -> Response:
    found = await parts.records.read(jobs.get, job.tenant, job.id)
    job = found or job
    answer = await parts.records.read(jobs.answer, job.tenant, job.id) if job.ended else None
    return JSONResponse(chat_view(job, answer), 200, headers)

"""Answer a question: retrieve, say what was found, generate, cite, or say that the sources do not hold it.

A run can take over what an earlier one began: logged hits and text are used again, never repeated.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from ragqueue import telemetry
from ragqueue.answering.grounding import judge
from ragqueue.answering.message import Message, Progress, progress_of
from ragqueue.answering.prompt import SYSTEM, build
from ragqueue.embedders.base import Embedder
from ragqueue.errors import GenerationFailed
from ragqueue.events.pen import Pen
from ragqueue.generators.base import Generator
from ragqueue.records import chunks, documents
from ragqueue.records.store import Records
from ragqueue.retrieval.base import Retriever, chunk_view
from ragqueue.types import Hit, Job, Outcome

NOT_IN_SOURCES = "The sources do not hold an answer to this question."
_NEAREST = 3  # passages shown when the sources do not hold the answer


class Attempt(Protocol):
    """What a run offers to a kind of job."""

    job: Job
    partial: Callable[[], Outcome] | None

    async def open_pen(self) -> Pen: ...


class Answerer:
    """Does chat jobs."""

    def __init__(
        self, records: Records, retriever: Retriever, generator: Generator, embedder: Embedder | None,
        *, limit: int, system: str | None, budget: int,
    ) -> None:  # fmt: skip
        self._records, self._retriever, self._generator, self._embedder = records, retriever, generator, embedder
        self._limit, self._system, self._budget = limit, system or SYSTEM, budget

    async def run(self, run: Attempt) -> Outcome:
        """Do one attempt at a chat job and return what it ends with."""
        job = run.job
        timings = {"queued_s": _since(job)}
        pen = await run.open_pen()
        past = progress_of(pen.kept)
        hits, grounding = await self._sources(job, pen, past)
        timings["retrieved_s"] = _since(job)
        goes_on = NOT_IN_SOURCES.startswith(past.text) if grounding == "abstained" else self._generator.continues
        message = Message(pen, hits, past, continues=goes_on or past.finish is not None)
        about = {"grounding": grounding, "usage": {}, "timings": timings}
        if past.finish is not None:  # the earlier run died between the last event and the answer
            message.close(past.finish)
            return message.outcome(about | {"finish": past.finish})
        if grounding == "abstained":
            message.write(NOT_IN_SOURCES[len(message.text) :])
            message.close("stop")
            return message.outcome(about | {"finish": "stop", "nearest": _sources(hits[:_NEAREST])})
        run.partial = lambda: message.outcome(about | {"finish": ""})
        try:
            finish, usage = await self._write(job, message, hits, timings)
        except GenerationFailed:
            if not past.text or message.text != past.text:
                raise
            message.restart()  # what was shown cannot be continued, by another model than wrote it, say
            finish, usage = await self._write(job, message, hits, timings)
        message.close(finish)
        return message.outcome(about | {"finish": finish, "usage": usage})

    async def _sources(self, job: Job, pen: Pen, past: Progress) -> tuple[list[Hit], str]:
        """Return the hits and how well they carry an answer: what an earlier run logged, or what is found now."""
        if past.sources is not None:
            numbers = [source["chunk"] for source in past.sources]
            loaded = {chunk.number: chunk for chunk in await self._records.read(chunks.load, job.tenant, numbers)}
            kept = [Hit(loaded[s["chunk"]], s["score"], s["cosine"], s["keyword"]) for s in past.sources if s["chunk"] in loaded]
            return kept, past.grounding
        hits = await self._search(job, pen, past)
        grounding = await judge(job.payload["question"], hits, self._embedder, sentences=self._generator.model == "extractive")
        # Before any passage stands in the log, the records say which documents a delete must look for here.
        await self._records.note(documents.note_quotes, job.tenant, job.id, [hit.chunk.document_id for hit in hits])
        pen.write("ragqueue:sources", {"sources": _sources(hits), "grounding": grounding})
        return hits, grounding

    async def _search(self, job: Job, pen: Pen, past: Progress) -> list[Hit]:
        if not past.begun:
            pen.write("response.in_progress", {"response": {"id": job.id, "object": "response", "status": "in_progress"}})
        question, collection = job.payload["question"], job.payload.get("collection")
        search = {"type": "file_search_call", "id": f"fs_{job.id}", "queries": [question]}
        call = {"output_index": 0, "item_id": search["id"]}
        pen.write("response.output_item.added", {"output_index": 0, "item": search | {"status": "in_progress"}})
        pen.write("response.file_search_call.searching", call)
        limit = job.payload.get("limit", self._limit)
        hits = await self._retriever.retrieve(job.tenant, question, collections=[collection] if collection else None, limit=limit)
        pen.write("response.file_search_call.completed", call)
        pen.write("response.output_item.done", {"output_index": 0, "item": search | {"status": "completed"}})
        return hits

    async def _write(self, job: Job, message: Message, hits: Sequence[Hit], timings: dict[str, float]) -> tuple[str, dict[str, int]]:
        question, nonce = job.payload["question"], job.id[:12]
        prompt = build(question, hits, system=self._system, budget_tokens=self._budget, nonce=nonce, prefix=message.text)
        finish, usage = "", dict[str, int]()
        async with aclosing(self._generator.stream(prompt)) as stream:
            async for delta in stream:
                if delta.text:
                    if "first_token_s" not in timings:
                        timings["first_token_s"] = _since(job)
                        telemetry.FIRST_TOKEN.observe(timings["first_token_s"])
                    telemetry.TOKENS.inc()
                    message.write(delta.text)
                finish, usage = delta.finish or finish, dict(delta.usage) or usage
        if not finish:
            raise GenerationFailed(f"the model {self._generator.model!r} ended its stream without a finish reason")
        if not message.text:
            raise GenerationFailed(f"the model {self._generator.model!r} gave an empty answer")
        return finish, usage


def _since(job: Job) -> float:
    return round(time.time() - job.created_at, 4)


def _sources(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """Return numbered hits as readers see them."""
    return [
        {"n": n, "chunk": hit.chunk.number} | chunk_view(hit.chunk) | {"score": hit.score, "cosine": hit.cosine, "keyword": hit.keyword}
        for n, hit in enumerate(hits, 1)
    ]

"""Answer a question: retrieve, generate and cite, or say that the sources do not hold it; or go on where an earlier run broke off."""

import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from ragqueue import telemetry
from ragqueue.answering.grounding import judge
from ragqueue.answering.message import SOURCES, Message
from ragqueue.answering.prompt import SYSTEM, build
from ragqueue.embedders.base import Embedder
from ragqueue.errors import GenerationFailed
from ragqueue.events.pen import Pen, Run
from ragqueue.generators.base import Generator
from ragqueue.records import chunks, documents
from ragqueue.records.store import Records
from ragqueue.retrieval.base import Retriever, hit_view
from ragqueue.types import Hit, Job, Outcome

NOT_IN_SOURCES = "The sources do not hold an answer to this question."
_NEAREST = 3  # passages shown when the sources do not hold the answer


class Answerer:
    def __init__(
        self, records: Records, retriever: Retriever, generator: Generator, embedder: Embedder | None,
        *, limit: int, system: str | None, budget: int,
    ) -> None:  # fmt: skip
        self._records, self._retriever, self._generator, self._embedder = records, retriever, generator, embedder
        self._limit, self._system, self._budget = limit, system or SYSTEM, budget

    async def run(self, run: Run) -> Outcome:
        """Do one attempt at a chat job and return what it ends with."""
        job = run.job
        pen = run.pen = await run.batcher.open(job)
        message, timings = Message(pen), {"queued_s": _since(job)}
        hits, grounding = await self._sources(job, pen, message)
        timings["retrieved_s"] = _since(job)
        about: dict[str, Any] = {"grounding": grounding, "finish": message.finish or "", "usage": {}, "timings": timings}
        same = (message.sources or {}).get("model") == self._generator.model  # a model goes on only with what it wrote itself
        goes_on = NOT_IN_SOURCES.startswith(message.text) if grounding == "abstained" else same and self._generator.continues
        message.begin(hits, continues=goes_on or message.finish is not None)
        if grounding == "abstained":
            message.write(NOT_IN_SOURCES[len(message.text) :])
            about |= {"finish": "stop", "nearest": _sources(hits[:_NEAREST])}
        elif message.finish is None:  # else the earlier run died between the last event and the answer
            run.partial = lambda: message.outcome(about)
            about |= await self._write(job, message, hits, timings)
        message.close(about["finish"])
        return message.outcome(about)

    async def _sources(self, job: Job, pen: Pen, message: Message) -> tuple[list[Hit], str]:
        """Return the hits and how well they carry an answer: what an earlier run logged, or what is found now."""
        if past := message.sources:
            loaded = await self._records.read(chunks.load, job.tenant, [source["chunk"] for source in past["sources"]])
            if len(loaded) == len(past["sources"]):
                kept = [Hit(chunk, s["score"], s["cosine"], s["keyword"]) for chunk, s in zip(loaded, past["sources"], strict=True)]
                return kept, past["grounding"]
            message.sources = message.finish = None  # passages were replaced or deleted meanwhile: the answer begins anew
        question, collection = job.payload["question"], job.payload.get("collection")
        search = {"type": "file_search_call", "id": f"fs_{job.id}", "queries": [question]}
        call = {"output_index": 0, "item_id": search["id"]}
        if all(event.type != "response.in_progress" for event in pen.kept):
            pen.write("response.in_progress", {"response": {"id": job.id, "object": "response", "status": "in_progress"}})
            pen.write("response.output_item.added", {"output_index": 0, "item": search | {"status": "in_progress"}})
            pen.write("response.file_search_call.searching", call)
        limit = job.payload.get("limit", self._limit)
        hits = await self._retriever.retrieve(job.tenant, question, collections=[collection] if collection else None, limit=limit)
        grounding = await judge(question, hits, self._embedder, sentences=self._generator.model == "extractive")
        # Before any passage stands in the log, the records say which documents a delete must look for here.
        await self._records.note(documents.note_quotes, job.tenant, job.id, [hit.chunk.document_id for hit in hits])
        pen.write("response.file_search_call.completed", call)
        pen.write("response.output_item.done", {"output_index": 0, "item": search | {"status": "completed"}})
        pen.write(SOURCES, {"sources": _sources(hits), "grounding": grounding, "model": self._generator.model})
        return hits, grounding

    async def _write(self, job: Job, message: Message, hits: Sequence[Hit], timings: dict[str, float]) -> dict[str, Any]:
        """Write what the generator says; return how it ended and what it used. Raises GenerationFailed, InvalidRequest."""
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
        if not finish or not message.text:
            wrong = "gave an empty answer" if finish else "ended its stream without a finish reason"
            raise GenerationFailed(f"the model {self._generator.model!r} {wrong}")
        return {"finish": finish, "usage": usage}


def _since(job: Job) -> float:
    return round(time.time() - job.created_at, 4)


def _sources(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    return [{"n": n, "chunk": hit.chunk.number} | hit_view(hit) for n, hit in enumerate(hits, 1)]

"""Answer a question: retrieve, generate and cite, or say that the sources do not hold it; or go on where an earlier run broke off."""

import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from ragqueue import telemetry
from ragqueue.answering.grounding import judge
from ragqueue.answering.message import SOURCES, Message
from ragqueue.answering.prompt import SYSTEM, build
from ragqueue.embedders.base import Embedder
from ragqueue.errors import GenerationFailed
from ragqueue.events.pen import Pen
from ragqueue.generators.base import Generator
from ragqueue.patience import patiently
from ragqueue.records import chunks, documents
from ragqueue.records.store import Records
from ragqueue.retrieval.fused import FusedRetriever, hit_view
from ragqueue.types import Chunk, Hit, Job, Outcome, Prompt
from ragqueue.working.run import Run

NOT_IN_SOURCES = "The sources do not hold an answer to this question."
_NEAREST = 3  # passages shown when the sources do not hold the answer


class Answerer:
    def __init__(
        self,
        records: Records,
        retriever: FusedRetriever,
        generator: Generator,
        embedder: Embedder | None,
        *,
        limit: int,
        system: str | None,
        budget: int,
    ) -> None:
        self._records, self._retriever, self._generator, self._embedder = (
            records,
            retriever,
            generator,
            embedder,
        )
        self._limit, self._system, self._budget = limit, system or SYSTEM, budget

    async def run(self, run: Run) -> Outcome:
        """Do one attempt at a chat job and return what it ends with."""
        job = run.job
        pen = run.pen = await run.batcher.open(job)
        message, timings = Message(pen), {"queued_s": _since(job)}
        prompt, found = await self._sources(job, pen, message)
        timings["retrieved_s"] = _since(job)
        about: dict[str, Any] = {
            "grounding": found["grounding"],
            "finish": message.finish or "",
            "usage": {},
            "timings": timings,
        }
        abstained = found["grounding"] == "abstained"
        same = (message.sources or {}).get(
            "model"
        ) == self._generator.model  # a model goes on only with what it wrote itself
        goes_on = (
            NOT_IN_SOURCES.startswith(message.text)
            if abstained
            else same and self._generator.continues
        )
        message.begin(prompt.hits, continues=goes_on or message.finish is not None)
        if abstained:
            message.write(NOT_IN_SOURCES[len(message.text) :])
            about |= {"finish": "stop", "nearest": found["sources"][:_NEAREST]}
        elif (
            message.finish is None
        ):  # else the earlier run died between the last event and the answer
            run.partial = lambda: message.outcome(about)
            about |= await self._write(job, message, prompt, timings)
        message.close(about["finish"])
        return message.outcome(about)

    async def _sources(
        self, job: Job, pen: Pen, message: Message
    ) -> tuple[Prompt, Mapping[str, Any]]:
        """Return the prompt and what the log tells of its passages: what an earlier run wrote there, or what is found now."""
        if past := message.sources:
            loaded = await self._records.read(
                chunks.load, job.tenant, [source["chunk"] for source in past["sources"]]
            )
            if len(loaded) == len(past["sources"]) and await self._may_show(job, loaded):
                hits = [
                    Hit(chunk, s["score"], s["cosine"], s["keyword"])
                    for chunk, s in zip(loaded, past["sources"], strict=True)
                ]
                return self._prompt(job, hits)._replace(hits=hits), past
            message.sources = message.finish = (
                None  # passages were replaced or deleted meanwhile: the answer begins anew
            )
        question = job.payload["question"]
        search = {"type": "file_search_call", "id": f"fs_{job.id}", "queries": [question]}
        call = {"output_index": 0, "item_id": search["id"]}
        if all(event.type != "response.in_progress" for event in pen.kept):
            pen.write(
                "response.in_progress",
                {"response": {"id": job.id, "object": "response", "status": "in_progress"}},
            )
            pen.write(
                "response.output_item.added",
                {"output_index": 0, "item": search | {"status": "in_progress"}},
            )
            pen.write("response.file_search_call.searching", call)
        nearest, prompt = await self._retrieve(job)
        hits = list(prompt.hits)  # not all that are near: the log tells what the prompt holds
        grounding = await judge(
            question, nearest, self._embedder, sentences=self._generator.weighs_sentences
        )
        pen.write("response.file_search_call.completed", call)
        pen.write(
            "response.output_item.done",
            {"output_index": 0, "item": search | {"status": "completed"}},
        )
        sources = [
            {"n": n, "chunk": hit.chunk.number} | hit_view(hit) for n, hit in enumerate(hits, 1)
        ]
        found = {"sources": sources, "grounding": grounding, "model": self._generator.model}
        pen.write(SOURCES, found)
        return prompt, found

    async def _retrieve(self, job: Job) -> tuple[list[Hit], Prompt]:
        """Return what is near the question, and the prompt with as much of it as fits, all of which may be shown."""
        question, collection = job.payload["question"], job.payload.get("collection")
        limit, most = job.payload.get("limit", self._limit), self._generator.passages
        limit = limit if most is None else min(limit, most)
        while True:
            nearest = await self._retriever.retrieve(
                job.tenant, question, collections=[collection] if collection else None, limit=limit
            )
            prompt = self._prompt(job, nearest)
            if await self._may_show(job, [hit.chunk for hit in prompt.hits]):
                return nearest, prompt
            # A document was deleted after it was found: look again.

    async def _may_show(self, job: Job, passages: Sequence[Chunk]) -> bool:
        """Before any passage stands in the log, note which documents a delete must look for here; False when one was deleted."""
        document_ids = [chunk.document_id for chunk in passages]
        return await patiently(
            self._records.note, documents.note_quotes, job.tenant, job.id, document_ids
        )

    async def _write(
        self, job: Job, message: Message, prompt: Prompt, timings: dict[str, float]
    ) -> dict[str, Any]:
        """Write what the generator says; return how it ended and what it used. Raises GenerationFailed, InvalidRequest."""
        finish, usage = "", dict[str, int]()
        async with aclosing(self._generator.stream(prompt._replace(prefix=message.text))) as stream:
            async for delta in stream:
                if delta.text:
                    if "first_token_s" not in timings:
                        timings["first_token_s"] = _since(job)
                        telemetry.FIRST_TOKEN.observe(timings["first_token_s"])
                    telemetry.TOKENS.inc()
                    message.write(delta.text)
                finish, usage = delta.finish or finish, dict(delta.usage) or usage
        if finish:
            message.write("", last=True)
        if not finish or not message.text.strip():
            wrong = "gave an empty answer" if finish else "ended its stream without a finish reason"
            raise GenerationFailed(f"the model {self._generator.model!r} {wrong}")
        return {"finish": finish, "usage": usage}

    def _prompt(self, job: Job, hits: Sequence[Hit]) -> Prompt:
        return build(
            job.payload["question"],
            hits,
            system=self._system,
            budget_tokens=self._budget,
            nonce=job.id[:12],
        )


def _since(job: Job) -> float:
    return round(time.time() - job.created_at, 4)

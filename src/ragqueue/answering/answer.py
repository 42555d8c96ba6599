"""Answer a question: retrieve, generate and cite, or say that the sources do not hold it.

A run goes on where an earlier one broke off.
"""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from msgspec import structs

from ragqueue import telemetry
from ragqueue.answering.grounding import judge
from ragqueue.answering.prompt import SYSTEM, build
from ragqueue.answering.transcript import Transcript
from ragqueue.embedders.base import Embedder
from ragqueue.errors import GenerationFailed
from ragqueue.generators.base import Generator
from ragqueue.patience import patiently
from ragqueue.records import chunks, documents
from ragqueue.records.store import Records
from ragqueue.retrieval.fused import FusedRetriever
from ragqueue.types import Chunk, Hit, Job, Outcome, Prompt
from ragqueue.working.run import Run

NOT_IN_SOURCES = "The sources do not hold an answer to this question."
NEAREST = 3  # passages shown when the sources do not hold the answer


class Answerer:
    """Does chat jobs."""

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
        """`limit`: most passages of a prompt; `budget`: their tokens; `system`: None for ours."""
        self._records = records
        self._retriever = retriever
        self._generator = generator
        self._embedder = embedder
        self._limit = limit
        self._system = system or SYSTEM
        self._budget = budget

    async def run(self, run: Run) -> Outcome:
        """Do one attempt at a chat job and return what it ends with.

        Raises LeaseLost, GenerationFailed, InvalidRequest, Unavailable.
        """
        job = run.job
        run.pen = await run.batcher.open(job)
        transcript = Transcript(run.pen)
        timings = {"queued_s": round(run.age, 4)}
        prompt, sources = await self._sources(job, transcript)
        timings["retrieved_s"] = round(run.age, 4)
        about: dict[str, Any] = {
            "grounding": sources["grounding"],
            "finish": transcript.finish or "",
            "usage": {},
            "timings": timings,
        }
        was_closing = transcript.finish is not None  # the earlier run died just before the answer
        if sources["grounding"] == "abstained":
            goes_on = was_closing or NOT_IN_SOURCES.startswith(transcript.text)
            transcript.begin(prompt.hits, continues=goes_on)
            transcript.write(NOT_IN_SOURCES[len(transcript.text) :])
            about["finish"] = "stop"
            about["nearest"] = sources["sources"][:NEAREST]
        else:
            # A model goes on only with what it wrote itself.
            same_model = transcript.is_by(self._generator.model)
            goes_on = was_closing or (same_model and self._generator.continues)
            transcript.begin(prompt.hits, continues=goes_on)
            if not was_closing:
                run.partial = lambda: transcript.outcome(about)
                about |= await self._generate(run, transcript, prompt, timings)
        transcript.close(about["finish"])
        return transcript.outcome(about)

    async def _sources(self, job: Job, transcript: Transcript) -> tuple[Prompt, Mapping[str, Any]]:
        """Return the prompt, and what the log tells of its passages.

        That is what an earlier run wrote there, or what is found now.
        """
        prompt = await self._past_prompt(job, transcript)
        if prompt is not None and transcript.past_sources is not None:
            return prompt, transcript.past_sources
        transcript.drop_past()  # passages were replaced or deleted meanwhile: it begins anew
        question = job.payload["question"]
        transcript.searching(question)
        nearest, prompt = await self._retrieve(job)
        grounding = await judge(
            question, nearest, self._embedder, sentences=self._generator.weighs_sentences
        )
        # Not all that are near: the log tells what the prompt holds.
        sources = transcript.found(question, prompt.hits, grounding, self._generator.model)
        return prompt, sources

    async def _past_prompt(self, job: Job, transcript: Transcript) -> Prompt | None:
        """Return the prompt of an earlier run, if all of its passages may still be shown."""
        if transcript.past_sources is None:
            return None
        past = transcript.past_sources["sources"]
        numbers = [source["chunk"] for source in past]
        passages = await self._records.read(chunks.load, job.tenant, numbers)
        if len(passages) < len(past) or not await self._may_show(job, passages):
            return None
        hits = [
            Hit(
                chunk=chunk,
                score=source["score"],
                cosine=source["cosine"],
                keyword=source["keyword"],
            )
            for chunk, source in zip(passages, past, strict=True)
        ]
        return structs.replace(self._prompt(job, hits), hits=hits)

    async def _retrieve(self, job: Job) -> tuple[list[Hit], Prompt]:
        """Return what is near the question, and the prompt with as much of it as fits.

        All that the prompt holds may be shown.
        """
        question = job.payload["question"]
        collection = job.payload.get("collection")
        collections = None if collection is None else [collection]
        limit = job.payload.get("limit", self._limit)
        if self._generator.passages is not None:
            limit = min(limit, self._generator.passages)
        while True:
            nearest = await self._retriever.retrieve(
                job.tenant, question, collections=collections, limit=limit
            )
            prompt = self._prompt(job, nearest)
            if await self._may_show(job, [hit.chunk for hit in prompt.hits]):
                return nearest, prompt
            # A document was deleted after it was found: look again.

    async def _may_show(self, job: Job, passages: Sequence[Chunk]) -> bool:
        """Note which documents a delete must look for here; False when one was deleted.

        It comes before any passage stands in the log.
        """
        document_ids = [chunk.document_id for chunk in passages]
        noted = await patiently(
            self._records.note, documents.note_quotes, job.tenant, job.id, document_ids
        )
        # Again behind the commit: a delete that did not see the note is seen by this look.
        return noted and not await patiently(
            self._records.read, documents.any_hidden, job.tenant, document_ids
        )

    async def _generate(
        self, run: Run, transcript: Transcript, prompt: Prompt, timings: dict[str, float]
    ) -> dict[str, Any]:
        """Write what the generator says; return its `finish` and `usage`.

        Raises GenerationFailed, InvalidRequest, Unavailable.
        """
        finish = ""
        usage: dict[str, int] = {}
        prompt = structs.replace(prompt, prefix=transcript.text)
        async with aclosing(self._generator.stream(prompt)) as deltas:
            async for delta in deltas:
                if delta.text:
                    if "first_token_s" not in timings:
                        timings["first_token_s"] = round(run.age, 4)
                        telemetry.FIRST_TOKEN.observe(timings["first_token_s"])
                    telemetry.TOKENS.inc()
                    transcript.write(delta.text)
                finish = delta.finish or finish
                usage = dict(delta.usage) or usage
        if not finish:
            raise self._failed("ended its stream without a finish reason")
        transcript.write("", last=True)
        if not transcript.text.strip():
            raise self._failed("gave an empty answer")
        return {"finish": finish, "usage": usage}

    def _failed(self, how: str) -> GenerationFailed:
        return GenerationFailed(f"the model {self._generator.model!r} {how}")

    def _prompt(self, job: Job, hits: Sequence[Hit]) -> Prompt:
        return build(
            job.payload["question"],
            hits,
            system=self._system,
            budget_tokens=self._budget,
            nonce=job.id[:12],
        )

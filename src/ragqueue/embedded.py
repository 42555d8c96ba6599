"""The whole system in one process, without HTTP: for Python programs and for the command line."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from ragqueue.errors import InvalidRequest, NotFound, QueueFull, RagqueueError
from ragqueue.parsers.table import EXTENSIONS
from ragqueue.records import documents, erasures, jobs, workers
from ragqueue.settings import load
from ragqueue.storable import check_storable
from ragqueue.types import Citation, Event, Hit, Job
from ragqueue.wiring import Runtime, open_runtime


class Answer(NamedTuple):
    """An answer with its checked citations."""

    text: str
    citations: Sequence[Citation]
    view: Mapping[str, Any]  # as `GET /chat/{id}` shows it, with id, status and grounding


@dataclass(slots=True)
class Ingested:
    """What became of the files of one `ingest`."""

    ready: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # source -> reason
    files: int = 0  # of all three kinds
    chunks: int = 0


class Ragqueue:
    """Works as one tenant inside `async with`; does its own jobs when the queue is `sql` and no other worker beats."""

    runtime: Runtime  # the objects of this process, inside the block

    def __init__(
        self, *, tenant: str = "default", settings: Mapping[str, Any] | None = None
    ) -> None:
        """`settings` are names and values that go before the environment's, like `{"data": "/srv/rag"}`."""
        check_storable("tenant", tenant)
        self.tenant, self._flags, self._stack = tenant, settings, AsyncExitStack()
        self._gate = asyncio.Semaphore(64)  # documents that wait for their jobs at once

    async def __aenter__(self) -> Self:
        os.environ.setdefault(
            "OMP_NUM_THREADS", "1"
        )  # before faiss is loaded; its own call covers one thread only
        self.runtime = await self._stack.enter_async_context(open_runtime(load(self._flags)[0]))
        if self.runtime.settings.queue_url == "sql" and not await self.workers():
            await self._stack.enter_async_context(self.runtime.working())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def workers(self) -> int:
        """Return how many worker processes beat."""
        return len(await self.runtime.records.read(workers.alive, self.runtime.settings.lease))

    async def ingest(
        self,
        *paths: str | os.PathLike[str],
        collection: str = "default",
        progress: Callable[[Ingested, int], None] = lambda *_: None,
    ) -> Ingested:
        """Bring files and folders in, wait until their jobs have ended, tell what is done of how many. Raises NotFound for a wrong path."""
        files, done = find_files(paths), Ingested()

        async def one(source: str, path: Path) -> None:
            try:
                if (job := await self.store(source, path, collection=collection)) is None:
                    done.unchanged.append(source)
                elif job.result is None:
                    done.failed[source] = job.error_message or job.state
                else:
                    done.ready.append(source)
                    done.chunks += job.result["chunks"]
            except (RagqueueError, OSError) as error:
                done.failed[source] = str(error)
            done.files += 1
            progress(done, len(files))

        await asyncio.gather(*(one(source, path) for source, path in files.items()))
        return done

    async def store(
        self,
        source: str,
        data: bytes | Path,
        *,
        collection: str = "default",
        media_type: str | None = None,
    ) -> Job | None:
        """Bring one file in and return its job once that has ended, or None when these bytes are known. Raises RagqueueError, OSError."""
        accept = self.runtime.ingester.accept
        async with self._gate:
            content = await asyncio.to_thread(data.read_bytes) if isinstance(data, Path) else data
            while True:
                try:
                    _, job = await accept(
                        self.tenant,
                        content,
                        source=source,
                        collection=collection,
                        media_type=media_type,
                    )
                    return job and await self.ended(job)
                except QueueFull as error:
                    await asyncio.sleep(error.retry_after or 1.0)

    async def ask(
        self, question: str, *, collection: str | None = None, limit: int | None = None
    ) -> Answer:
        """Return the answer to a question. Raises RagqueueError with the job's code when it fails."""
        async for event in self.stream(question, collection=collection, limit=limit):
            last = event
        view = dict(last.data["response"])
        if (written := view["answer"]) is None or view["status"] == "failed":
            error = view["error"] or {
                "code": view["status"],
                "message": f"the question is {view['status']}",
            }
            raise RagqueueError(f"{error['message']} ({error['code']})")
        view.pop("object")  # of the stream alone
        return Answer(
            written["text"], [Citation(**citation) for citation in written["citations"]], view
        )

    async def stream(
        self, question: str, *, collection: str | None = None, limit: int | None = None
    ) -> AsyncIterator[Event]:
        """Yield the events of an answer as they are written. Raises InvalidRequest, NotFound, QueueFull."""
        await check_question(self.runtime, self.tenant, question, collection, limit=limit)
        payload = {"question": question, "collection": collection, "limit": limit}
        job = await self.runtime.submitter.submit(
            self.tenant, "chat", {k: v for k, v in payload.items() if v is not None}
        )
        async for batch in self.runtime.follower.follow(job):
            self.runtime.keeper.check()
            for event in batch:
                yield event

    async def search(
        self, question: str, *, collection: str | None = None, limit: int = 10
    ) -> list[Hit]:
        """Return the passages nearest to a question, best first. Raises InvalidRequest, NotFound."""
        await check_question(
            self.runtime, self.tenant, question, collection, limit=limit, largest=100
        )
        return await self.runtime.retriever.retrieve(
            self.tenant, question, collections=[collection] if collection else None, limit=limit
        )

    async def delete(self, document_id: str) -> erasures.Receipt:
        """Delete a document and return its receipt once it is erased. Raises NotFound."""
        await self.ended(await self.runtime.eraser.delete(self.tenant, document_id))
        receipt = await self.runtime.records.read(erasures.receipt, self.tenant, document_id)
        assert receipt is not None
        return receipt

    async def ended(self, job: Job) -> Job:
        """Wait for the end of a job and return it. Raises Unavailable when this process cannot work any more."""
        while not job.ended:
            await asyncio.sleep(0.05)
            self.runtime.keeper.check()
            fresh = await self.runtime.records.read(jobs.get, job.tenant, job.id)
            job = fresh or job
        return job


async def check_question(
    runtime: Runtime,
    tenant: str,
    question: str,
    collection: str | None,
    *,
    limit: int | None = None,
    largest: int = 50,
) -> None:
    """Raise InvalidRequest for an empty or too long question or a wrong limit, NotFound for a collection that the tenant does not have."""
    if limit is not None and not 1 <= limit <= largest:
        raise InvalidRequest(f"limit is {limit!r:.40}: 1 to {largest} are allowed")
    for name, text in (("question", question), ("collection", collection)):
        check_storable(name, text)
    most = runtime.settings.max_question
    if not question.strip() or len(question) > most:
        raise InvalidRequest(
            f"question has {len(question):,} characters: 1 to {most:,} are allowed (RAGQUEUE_MAX_QUESTION)"
        )
    if (
        collection is not None
        and await runtime.records.read(documents.generation, tenant, collection) is None
    ):
        raise NotFound(f"there is no collection {collection!r}")


def find_files(paths: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Return {source: path} of every file; a folder gives those with a known ending, hidden ones left out. Raises NotFound."""
    found: dict[str, Path] = {}
    for given in map(Path, paths):
        if not given.exists():
            raise NotFound(f"there is no file or folder {str(given)!r}")
        inside = [given]
        if given.is_dir():
            inside = sorted(
                path
                for path in given.rglob("*")
                if path.is_file() and path.suffix.lower() in EXTENSIONS
            )
        found |= {
            path.as_posix(): path
            for path in inside
            if not any(part.startswith(".") for part in path.relative_to(given).parts)
        }
    return found

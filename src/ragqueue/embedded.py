"""The whole system in one process, without HTTP: for Python programs and for the command line."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from ragqueue.desk import Desk
from ragqueue.errors import QueueFull, RagqueueError, Unavailable
from ragqueue.ingestion.files import find_files
from ragqueue.records import jobs, workers
from ragqueue.records.erasures import Receipt
from ragqueue.settings import load
from ragqueue.storable import check_storable
from ragqueue.types import LANES, Citation, Event, Hit, Job
from ragqueue.wiring import Runtime, open_runtime

AT_ONCE = 64  # documents that wait for their jobs
LOOK_EVERY = 0.05  # seconds between looks at a job that is waited for
LOOK_FOR = 1.0  # seconds between looks for somebody who works


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


Progress = Callable[[Ingested, int], None]  # what is done, of how many files


class Ragqueue:
    """Works as one tenant inside `async with`.

    It does its own jobs when the queue works inside a process and no other worker beats.
    """

    runtime: Runtime  # the objects of this process, inside the block
    desk: Desk  # the tenant's

    def __init__(
        self, *, tenant: str = "default", settings: Mapping[str, Any] | None = None
    ) -> None:
        """`settings`: names and values that go before the environment's: `{"data": "/srv/rag"}`."""
        check_storable("tenant", tenant)
        self.tenant = tenant
        self._flags = settings
        self._stack = AsyncExitStack()
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._works = False  # a worker runs inside, or none shall any more

    async def __aenter__(self) -> Self:
        # Before faiss is loaded; its own call covers one thread only.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        settings, _ = load(self._flags)
        self.runtime = await self._stack.enter_async_context(open_runtime(settings))
        self.desk = self.runtime.desk(self.tenant)
        if self.runtime.queue.works_inside:
            await self._work_if_nobody_does()
            # Who beats now may be dead: a worker that was killed counts for a lease.
            self.runtime.keeper.keep("inside", self._take_over, every=lambda: LOOK_FOR)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._works = True  # nothing begins any more
        await self._stack.aclose()

    async def _work_if_nobody_does(self) -> None:
        """Run a worker in this process once a lane has none."""
        if self._works or await self.workers():
            return
        if not self._works:  # nor has this process begun to close meanwhile
            self._works = True
            await self._stack.enter_async_context(self.runtime.working())

    async def _take_over(self) -> None:
        """Look once whether somebody works; records that are away are asked again later."""
        with suppress(Unavailable):
            await self._work_if_nobody_does()

    async def workers(self) -> int:
        """Return how many worker processes beat for each lane, of the lane with the fewest."""
        lease = self.runtime.settings.lease
        alive = await self.runtime.records.read(workers.alive, lease)
        lanes = [lane for worker in alive for lane in worker["lanes"].split(",")]
        return min(lanes.count(lane) for lane in LANES)

    async def ingest(
        self,
        *paths: str | os.PathLike[str],
        collection: str = "default",
        progress: Progress = lambda *_: None,
    ) -> Ingested:
        """Bring files and folders in, and wait until their jobs have ended.

        Raises NotFound for a wrong path.
        """
        files = find_files(paths)
        done = Ingested()

        async def bring(source: str, path: Path) -> None:
            try:
                job = await self.store(source, path, collection=collection)
                _note(done, source, job)
            except (RagqueueError, OSError) as error:
                done.failed[source] = str(error)
            done.files += 1
            progress(done, len(files))

        await asyncio.gather(*(bring(source, path) for source, path in files.items()))
        return done

    async def store(
        self,
        source: str,
        data: bytes | Path,
        *,
        collection: str = "default",
        media_type: str | None = None,
    ) -> Job | None:
        """Bring one file in and return its job once that has ended, None when its bytes are known.

        Raises RagqueueError, OSError.
        """
        async with self._gate:
            content = data
            if isinstance(content, Path):
                content = await asyncio.to_thread(content.read_bytes)
            while True:
                try:
                    _, job = await self.desk.upload(
                        content, source=source, collection=collection, media_type=media_type
                    )
                except QueueFull as error:
                    await asyncio.sleep(error.retry_after or 1.0)
                    continue
                return None if job is None else await self.ended(job)

    async def ask(
        self, question: str, *, collection: str | None = None, limit: int | None = None
    ) -> Answer:
        """Return the answer to a question. Raises RagqueueError when it fails."""
        async for event in self.stream(question, collection=collection, limit=limit):
            last = event
        view = dict(last.data["response"])
        written = view["answer"]
        if written is None or view["status"] == "failed":
            status = view["status"]
            error = view["error"] or {"code": status, "message": f"the question is {status}"}
            raise RagqueueError(f"{error['message']} ({error['code']})")
        view.pop("object")  # of the stream alone
        citations = [Citation(**citation) for citation in written["citations"]]
        return Answer(text=written["text"], citations=citations, view=view)

    async def stream(
        self, question: str, *, collection: str | None = None, limit: int | None = None
    ) -> AsyncIterator[Event]:
        """Yield the events of an answer as they are written.

        Raises InvalidRequest, NotFound, QueueFull.
        """
        job = await self.desk.ask(question, collection=collection, limit=limit)
        async for batch in await self.desk.follow(job):
            self.runtime.keeper.check()
            for event in batch:
                yield event

    async def search(
        self, question: str, *, collection: str | None = None, limit: int = 10
    ) -> list[Hit]:
        """Return the passages nearest to a question, best first.

        Raises InvalidRequest, NotFound.
        """
        return await self.desk.search(question, collection=collection, limit=limit)

    async def delete(self, document_id: str) -> Receipt:
        """Delete a document and return its receipt once it is erased. Raises NotFound."""
        await self.ended(await self.desk.delete(document_id))
        return await self.desk.receipt(document_id)

    async def ended(self, job: Job) -> Job:
        """Wait for the end of a job and return it.

        Raises Unavailable when this process cannot work any more.
        """
        while not job.ended:
            await asyncio.sleep(LOOK_EVERY)
            self.runtime.keeper.check()
            fresh = await self.runtime.records.read(jobs.get, job.tenant, job.id)
            job = fresh or job
        return job


def _note(done: Ingested, source: str, job: Job | None) -> None:
    """Note what became of a file; None for one whose bytes are known."""
    if job is None:
        done.unchanged.append(source)
    elif job.result is None:
        done.failed[source] = job.error_message or job.state
    else:
        done.ready.append(source)
        done.chunks += job.result["chunks"]

"""Settings become objects: the one place where adapters are chosen and built."""

import asyncio
import os
import random
import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial

from ragqueue import adapters
from ragqueue.answering.answer import Answerer
from ragqueue.desk import Desk, Rooms
from ragqueue.embedders.base import Embedder, RememberingEmbedder
from ragqueue.errors import Unavailable
from ragqueue.events.base import EventLog
from ragqueue.events.pen import Batcher
from ragqueue.generators.base import Generator
from ragqueue.indexes.base import Index
from ragqueue.ingestion.erase import Eraser
from ragqueue.ingestion.ingest import Ingester
from ragqueue.jobs.follow import Follower
from ragqueue.jobs.reconcile import Reconciler
from ragqueue.jobs.ring import Ringer
from ragqueue.jobs.submit import Bounds, Submitter
from ragqueue.parsers.pool import ParserPool
from ragqueue.queues.base import JobQueue
from ragqueue.records import jobs
from ragqueue.records.schema import migrate, open_records
from ragqueue.records.store import Records
from ragqueue.retrieval.fused import FusedRetriever
from ragqueue.settings import Settings, check_model
from ragqueue.working.inside import working
from ragqueue.working.loops import Keeper
from ragqueue.working.worker import Worker


class Runtime:
    """Every object of one process."""

    def __init__(self, settings: Settings, records: Records, database: str) -> None:
        """Raises ConfigError for an adapter that cannot be built."""
        self.settings = settings
        self.records = records
        self.database = database  # its UUID
        self.keeper = Keeper()
        # Jobs that a worker runs at once.
        self.lanes = {
            "chat": settings.concurrency,
            "background": settings.background_concurrency,
        }
        self._make_queue(settings, records)
        self._make_retrieval(settings, records)
        self._make_kinds(settings, records)

    def _make_queue(self, settings: Settings, records: Records) -> None:
        self.queue = _by_url(JobQueue, adapters.QUEUES, settings.queue_url, records)
        self.log = _by_url(EventLog, adapters.EVENTS, settings.events_url, records)
        self.batcher = Batcher(self.log, self._is_current)
        self.ringer = Ringer(self.queue, self.database)
        self.follower = Follower(records, self.log)
        self.submitter = Submitter(
            records,
            self.ringer,
            bounds=Bounds(of_all=settings.lane_bound, of_tenant=settings.tenant_bound),
            deadlines={"chat": settings.chat_deadline, "background": settings.other_deadline},
        )
        self.reconciler = Reconciler(
            records,
            self.queue,
            self.log,
            self.ringer,
            self.submitter,
            keep_events=settings.keep_events,
            keep_jobs=settings.keep_jobs,
            lease=settings.lease,
        )

    def _make_retrieval(self, settings: Settings, records: Records) -> None:
        self.embedder: Embedder | None = None
        self.remembering: Embedder | None = None  # the same, for questions
        self.index: Index | None = None
        if settings.embedder != "none":
            self.embedder = adapters.load(Embedder, adapters.EMBEDDERS, settings.embedder)()
            self.remembering = RememberingEmbedder(self.embedder)
            self.index = _index(settings, records)
        self.retriever = FusedRetriever(records, self.remembering, self.index)

    def _make_kinds(self, settings: Settings, records: Records) -> None:
        """Make what does the jobs of each kind."""
        self.generator = _generator(settings, self.remembering)
        self.answerer = Answerer(
            records,
            self.retriever,
            self.generator,
            self.remembering,
            limit=settings.limit,
            system=settings.system_prompt,
            budget=settings.context,
        )
        self.pool = ParserPool(
            processes=settings.background_concurrency,
            seconds=settings.parse_seconds,
            memory=settings.parse_memory,
        )
        self.ingester = Ingester(
            records,
            self.submitter,
            self.pool,
            self.embedder,
            self.index,
            max_upload=settings.max_upload,
        )
        self.eraser = Eraser(records, self.submitter, self.log, self.index)
        self.rooms = Rooms(
            records=records,
            log=self.log,
            submitter=self.submitter,
            follower=self.follower,
            retriever=self.retriever,
            ingester=self.ingester,
            eraser=self.eraser,
            models=frozenset({settings.llm_model, self.generator.model}),
            max_question=settings.max_question,
        )

    def desk(self, tenant: str, caller: str = "") -> Desk:
        """Return what serves a caller as one tenant."""
        return Desk(self.rooms, tenant, caller)

    async def _is_current(self, job_id: str, attempt: int) -> bool:
        return await self.records.read(jobs.is_current, job_id, attempt)

    def keep_loops(self) -> None:
        """Begin the background work of the process."""
        self.keeper.keep("ringer", self.ringer.step)
        self.keeper.keep("batcher", self.batcher.step)
        self.keeper.keep("hub", self.follower.step)
        for look in self.reconciler.looks():
            # With jitter: many processes look.
            every = partial(random.uniform, 0.8 * look.every, 1.2 * look.every)
            self.keeper.keep("reconciler", look.step, every=every)

    def worker(self, *, owner: str | None = None, lanes: Mapping[str, int] | None = None) -> Worker:
        """Return a worker that has not begun to beat."""
        kinds = {
            "chat": self.answerer.run,
            "ingest": lambda run: self.ingester.run(run.job),
            "delete": lambda run: self.eraser.run(run.job),
        }
        return Worker(
            self.records,
            self.batcher,
            self.ringer,
            kinds,
            keeper=self.keeper,
            owner=owner or f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}",
            database=self.database,
            lease=self.settings.lease,
            beat_every=self.settings.beat,
            lanes=",".join(lanes or self.lanes),
        )

    def working(
        self, worker: Worker | None = None
    ) -> AbstractAsyncContextManager[asyncio.Task[None]]:
        """Run a worker in this process for as long as the context lasts."""
        return working(
            worker or self.worker(), self.queue, self.lanes, self.keeper, drain=self.settings.drain
        )


@asynccontextmanager
async def open_runtime(settings: Settings) -> AsyncIterator[Runtime]:
    """Build everything, keep its background work running, and close it.

    Raises ConfigError, Unavailable.
    """
    check_model(settings)
    records = open_records(settings.data)
    async with AsyncExitStack() as stack:
        stack.callback(records.close)
        runtime = Runtime(settings, records, await asyncio.to_thread(migrate, records.engine))
        for part in (runtime.queue, runtime.log, runtime.generator, runtime.pool):
            stack.push_async_callback(part.close)
        for part in (runtime.queue, runtime.log):
            with suppress(Unavailable):  # what is only away comes back
                await part.check()
        await runtime.queue.claim_database(runtime.database)
        stack.push_async_callback(runtime.keeper.close)
        runtime.keep_loops()
        yield runtime


def _by_url(
    port: type[adapters.T], table: Mapping[str, tuple[str, str]], url: str, records: Records
) -> adapters.T:
    """Return the queue engine or event log that a URL names by its scheme. Raises ConfigError."""
    if re.match("sql([+:]|$)", url):
        return adapters.by_url(port, table, url, records)
    return adapters.by_url(port, table, url)


def _index(settings: Settings, records: Records) -> Index:
    build = adapters.load(Index, adapters.INDEXES, settings.index)
    if settings.index == "faiss":
        return build(settings.vector_db_path, records)
    return build()


def _generator(settings: Settings, embedder: Embedder | None) -> Generator:
    kind, name = settings.model
    adapter = settings.llm_model if kind == "python" else kind
    build = adapters.load(Generator, adapters.GENERATORS, adapter)
    if kind == "extractive" and embedder is not None:
        return build(embedder.embed, languages=embedder.languages)
    if kind == "openai":
        key = settings.openai_api_key
        return build(
            name,
            base_url=settings.openai_base_url or "https://api.openai.com/v1",
            api_key=key.get_secret_value() if key else "",
            continues=settings.model_continues,
            max_connections=settings.concurrency + 10,
        )
    if kind == "scripted":
        return build(name)
    return build()


def is_private(settings: Settings) -> bool:
    """Say whether only this host can reach what `serve` binds."""
    return settings.host in ("127.0.0.1", "::1", "localhost")

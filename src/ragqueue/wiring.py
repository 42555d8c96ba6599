"""Settings become objects: the one place where adapters are chosen and built."""

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

from ragqueue import adapters
from ragqueue.answering.answer import Answerer
from ragqueue.desk import Desk, Rooms
from ragqueue.embedders.base import Embedder, RememberingEmbedder
from ragqueue.errors import Unavailable
from ragqueue.events.base import EventLog
from ragqueue.events.pen import Batcher
from ragqueue.generators.base import Generator
from ragqueue.indexes.base import Index
from ragqueue.ingestion.accept import Acceptor, generation_of
from ragqueue.ingestion.erase import Eraser
from ragqueue.ingestion.ingest import Ingester
from ragqueue.jobs.follow import Follower
from ragqueue.jobs.reconcile import Reconciler
from ragqueue.jobs.ring import Ringer
from ragqueue.jobs.submit import Bounds, Submitter
from ragqueue.parsers.pool import ParserPool
from ragqueue.queues.base import JobQueue
from ragqueue.records import jobs
from ragqueue.records.schema import migrate, open_either
from ragqueue.records.store import Records
from ragqueue.retrieval.fused import FusedRetriever
from ragqueue.settings import Settings, check_model
from ragqueue.working.inside import working
from ragqueue.working.loops import Keeper
from ragqueue.working.worker import Worker

T = TypeVar("T")


class Runtime:
    """Every object of one process."""

    def __init__(self, settings: Settings, records: Records, database: str) -> None:
        """Raises ConfigError for an adapter that cannot be built."""
        self.settings = settings
        self.records = records
        self.database = database  # its UUID
        self.keeper = Keeper()
        self.embedder: Embedder | None = None
        self.remembering: Embedder | None = None  # the same, for questions
        self.index: Index | None = None
        # Jobs that a worker runs at once.
        self.lanes = {
            "chat": settings.concurrency,
            "background": settings.background_concurrency,
        }
        self._make_queue(settings, records)
        self._make_retrieval(settings, records)
        self._make_kinds(settings, records)

    def _make_queue(self, settings: Settings, records: Records) -> None:
        self.queue = self._open(JobQueue, adapters.QUEUES, settings.queue_url)
        # By default the log is where the queue is.
        self.log = self._open(EventLog, adapters.EVENTS, settings.events or self.queue.log_url)
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
        if settings.embedder != "none":
            self.embedder = self._open(Embedder, adapters.EMBEDDERS, settings.embedder)
            self.remembering = RememberingEmbedder(self.embedder)
            self.index = self._open(Index, adapters.INDEXES, settings.index)
        self.retriever = FusedRetriever(records, self.remembering, self.index)

    def _make_kinds(self, settings: Settings, records: Records) -> None:
        """Make what does the jobs of each kind."""
        self.generator = self._open(Generator, adapters.GENERATORS, settings.llm_model)
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
        self.acceptor = Acceptor(
            records,
            self.submitter,
            generation_of(self.embedder),
            max_upload=settings.max_upload,
        )
        self.ingester = Ingester(records, self.pool, self.embedder, self.index)
        self.eraser = Eraser(records, self.submitter, self.log, self.index)
        self.rooms = Rooms(
            records=records,
            log=self.log,
            submitter=self.submitter,
            follower=self.follower,
            retriever=self.retriever,
            acceptor=self.acceptor,
            eraser=self.eraser,
            models=frozenset({settings.llm_model, self.generator.model}),
            max_question=settings.max_question,
        )

    def desk(self, tenant: str, caller: str = "") -> Desk:
        """Return what serves a caller as one tenant."""
        return Desk(self.rooms, tenant, caller)

    def _open(self, port: type[T], table: adapters.Table, url: str) -> T:
        """Return the adapter that a setting names. Raises ConfigError."""
        embedder = self.remembering
        given = adapters.Given(
            url=url,
            options=self.settings.options(table, url),
            records=self.records,
            folder=self.settings.vector_db_path,
            at_once=self.settings.concurrency,
            embed=embedder.embed if embedder else None,
            languages=embedder.languages if embedder else None,
        )
        return adapters.open_adapter(port, table, given)

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
    records = open_either(settings.database_url, settings.data)
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


def is_private(settings: Settings) -> bool:
    """Say whether only this host can reach what `serve` binds."""
    return settings.host in ("127.0.0.1", "::1", "localhost")

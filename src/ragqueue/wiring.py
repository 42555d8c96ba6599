"""Settings become objects: the one place where adapters are chosen and built."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from ragqueue import adapters
from ragqueue.answering.answer import Answerer
from ragqueue.answering.grounding import RememberingEmbedder
from ragqueue.embedders.base import Embedder
from ragqueue.errors import ConfigError
from ragqueue.events.base import EventLog
from ragqueue.events.hub import Hub
from ragqueue.events.pen import Batcher
from ragqueue.generators.base import Generator
from ragqueue.indexes.base import Index
from ragqueue.ingestion.erase import Eraser
from ragqueue.ingestion.ingest import Ingester
from ragqueue.jobs.follow import Follower
from ragqueue.jobs.reconcile import Reconciler, Retention
from ragqueue.jobs.ring import Ringer
from ragqueue.jobs.submit import Bounds, Submitter
from ragqueue.parsers.pool import ParserPool
from ragqueue.queues.base import JobQueue
from ragqueue.records.migrate import migrate, open_records
from ragqueue.records.store import Records
from ragqueue.retrieval.base import Retriever
from ragqueue.retrieval.fused import FusedRetriever
from ragqueue.settings import Settings, check_model
from ragqueue.worker import Worker


@dataclass(frozen=True, slots=True)
class Runtime:
    """Every object of one process."""

    settings: Settings
    database: str
    records: Records
    queue: JobQueue
    log: EventLog
    hub: Hub
    follower: Follower
    batcher: Batcher
    ringer: Ringer
    submitter: Submitter
    reconciler: Reconciler
    embedder: Embedder | None
    index: Index | None
    retriever: Retriever
    generator: Generator
    answerer: Answerer
    ingester: Ingester
    eraser: Eraser

    @property
    def lanes(self) -> dict[str, int]:
        """How many jobs of each lane a worker of this runtime runs at once."""
        return {"chat": self.settings.concurrency, "background": self.settings.background_concurrency}

    def worker(self, *, owner: str | None = None, lanes: Mapping[str, int] | None = None) -> Worker:
        """Return a worker that has not begun to beat."""
        kinds = {"chat": self.answerer.run, "ingest": self.ingester.run, "delete": self.eraser.run}
        return Worker(
            self.records, self.batcher, self.ringer, kinds,
            owner=owner or f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}", database=self.database,
            lease=self.settings.lease, beat_every=self.settings.beat, lanes=",".join(lanes or self.lanes),
        )  # fmt: skip


@asynccontextmanager
async def open_runtime(settings: Settings) -> AsyncIterator[Runtime]:
    """Build everything, keep its background work running, and close it. Raises ConfigError, Unavailable."""
    check_model(settings)
    async with AsyncExitStack() as stack:
        runtime = await _build(settings, stack)
        loops = [runtime.ringer.run(), runtime.batcher.run(), runtime.reconciler.run()]
        tasks = [asyncio.create_task(loop) for loop in loops]
        try:
            yield runtime
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _build(settings: Settings, stack: AsyncExitStack) -> Runtime:
    records = open_records(settings.data)
    stack.callback(records.close)
    database = await asyncio.to_thread(migrate, records.engine)
    queue, log = build_queue(settings, records), _log(settings, records)
    stack.push_async_callback(queue.close)
    stack.push_async_callback(log.close)
    await queue.claim_database(database)
    hub = Hub(log, records)
    stack.push_async_callback(hub.close)
    ringer = Ringer(queue, database)
    submitter = Submitter(records, ringer, _bounds(settings))
    retention = Retention(events=settings.keep_events, jobs=settings.keep_jobs)
    embedder, index = _embedder(settings), None
    if embedder is not None:
        index = _index(settings, records)
    asking = RememberingEmbedder(embedder) if embedder is not None else None
    retriever = FusedRetriever(records, asking, index)
    generator = _generator(settings, asking)
    stack.push_async_callback(generator.close)
    pool = ParserPool(
        processes=settings.background_concurrency,
        seconds=settings.parse_seconds,
        memory=settings.parse_memory,
        max_bytes=settings.max_upload,
    )
    stack.push_async_callback(pool.close)
    return Runtime(
        settings=settings, database=database, records=records, queue=queue, log=log, hub=hub, follower=Follower(records, log, hub),
        batcher=Batcher(log), ringer=ringer, submitter=submitter,
        reconciler=Reconciler(records, queue, log, ringer, retention=retention, lease=settings.lease),
        embedder=embedder, index=index, retriever=retriever, generator=generator,
        answerer=Answerer(records, retriever, generator, asking, limit=settings.limit, system=settings.system_prompt, budget=settings.context),
        ingester=Ingester(records, submitter, pool, embedder, index, max_upload=settings.max_upload),
        eraser=Eraser(records, submitter, log, index),
    )  # fmt: skip


def _bounds(settings: Settings) -> Bounds:
    return Bounds(settings.lane_bound, settings.tenant_bound, settings.chat_deadline, settings.other_deadline)


def build_queue(settings: Settings, records: Records) -> JobQueue:
    """Return the queue engine that the settings name. Raises ConfigError, MissingExtra."""
    url = settings.queue_url
    name = url.partition(":")[0].partition("+")[0] if not url.startswith("python:") else url
    queue_class = adapters.load("queue", adapters.QUEUES, name)
    queue: JobQueue = queue_class(records) if name == "sql" else queue_class(url)
    return queue


def _log(settings: Settings, records: Records) -> EventLog:
    url = settings.events_url
    name = "redis" if url.startswith(("redis://", "rediss://", "unix://")) else url
    log_class = adapters.load("event log", adapters.EVENTS, name)
    log: EventLog = log_class(records) if name == "sql" else log_class(url)
    return log


def _embedder(settings: Settings) -> Embedder | None:
    if settings.embedder == "none":
        return None
    embedder: Embedder = adapters.load("embedder", adapters.EMBEDDERS, settings.embedder)()
    return embedder


def _index(settings: Settings, records: Records) -> Index:
    index_class = adapters.load("index", adapters.INDEXES, settings.index)
    if settings.index != "faiss":
        index: Index = index_class()
        return index
    from ragqueue.records.vectors import RecordsFeed

    faiss: Index = index_class(settings.vector_db_path, RecordsFeed(records))
    return faiss


def _generator(settings: Settings, embedder: Embedder | None) -> Generator:
    kind, name = settings.model
    generator_class = adapters.load("generator", adapters.GENERATORS, kind if kind != "python" else settings.llm_model)
    if kind == "extractive":
        generator: Generator = generator_class(embedder.embed, languages=embedder.languages) if embedder else generator_class()
        return generator
    if kind == "openai":
        key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else "none"
        base_url = settings.openai_base_url or "https://api.openai.com/v1"
        openai: Generator = generator_class(
            name, base_url=base_url, api_key=key, continues=settings.model_continues, max_connections=settings.concurrency + 10
        )
        return openai
    other: Generator = generator_class.parse(name) if kind == "scripted" else generator_class()
    return other


def is_private(settings: Settings) -> bool:
    """Say whether only this host can reach what `serve` binds."""
    return settings.host in ("127.0.0.1", "::1", "localhost")


def refuse_public(settings: Settings, *, keys: bool) -> None:
    """Refuse to serve others than this host without keys. Raises ConfigError."""
    if not keys and not is_private(settings):
        raise ConfigError(
            f"RAGQUEUE_HOST is {settings.host!r}, but there is no API key: anybody could read every document. "
            "Make one with `ragqueue keys create NAME`, or bind 127.0.0.1"
        )

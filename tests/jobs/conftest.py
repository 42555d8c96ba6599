"""A process in miniature: records, the SQL queue and log, and a worker whose kinds a test gives."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from ragqueue.events.pen import Batcher
from ragqueue.events.sql import SqlEventLog
from ragqueue.jobs.follow import Follower
from ragqueue.jobs.reconcile import Reconciler
from ragqueue.jobs.ring import Ringer
from ragqueue.jobs.submit import Bounds, Submitter
from ragqueue.queues.sql import SqlQueue
from ragqueue.records import jobs
from ragqueue.records.schema import migrate
from ragqueue.types import Event, Job
from ragqueue.working.inside import work
from ragqueue.working.loops import Keeper
from ragqueue.working.worker import Kind, Worker
from tests.databases import open_records

TENANT = "acme"


@pytest.fixture(autouse=True)
def _on_each_database(each_database: None) -> None:
    """Run every test of this folder on each database."""


MONTH = 30 * 86_400.0


@dataclass
class House:
    """Everything that a job meets in its life, but the world outside."""

    folder: Path

    def __post_init__(self) -> None:
        self.records = open_records(self.folder)
        self.database = migrate(self.records.engine)
        self.queue, self.log = SqlQueue(self.records), SqlEventLog(self.records)
        self.ringer = Ringer(self.queue, self.database)
        self.submitter = Submitter(
            self.records,
            self.ringer,
            bounds=Bounds(of_all=20_000, of_tenant=5_000),
            deadlines={"chat": 600.0, "background": 3600.0},
        )
        self.follower = Follower(self.records, self.log)
        self.batcher = Batcher(self.log, partial(self.records.read, jobs.is_current))
        self.reconciler = Reconciler(
            self.records,
            self.queue,
            self.log,
            self.ringer,
            self.submitter,
            keep_events=600,
            keep_jobs=MONTH,
            lease=5.0,
        )
        self.keeper = Keeper()

    def start(self) -> None:
        parts = {"ringer": self.ringer, "batcher": self.batcher, "hub": self.follower}
        for name, part in parts.items():
            self.keeper.keep(name, part.step)

    def heal(self) -> None:
        """Begin to look for what nobody works on."""
        for look, _ in self.reconciler.looks():
            self.keeper.keep("reconciler", look, every=lambda: 0.1)

    async def close(self) -> None:
        await self.keeper.close()
        self.records.close()

    async def submit(self, question: str = "why?") -> Job:
        return await self.submitter.submit(TENANT, "chat", {"question": question})

    async def job(self, job_id: str) -> Job:
        found = await self.records.read(jobs.get, TENANT, job_id)
        assert found is not None
        return found

    async def claim(self, job_id: str, *, owner: str = "a-worker", lease: float = 10.0) -> Job:
        claimed = await self.records.write(jobs.claim, job_id, owner, 1.0, lease)
        assert claimed is not None
        return claimed

    async def ended(self, job_id: str) -> Job:
        async with asyncio.timeout(5):
            while not (job := await self.job(job_id)).ended:
                await asyncio.sleep(0.01)
        return job

    async def events(self, job: Job, after: int | None = None) -> list[Event]:
        async with asyncio.timeout(5):
            return [event async for batch in self.follower.follow(job, after) for event in batch]

    def worker(self, kinds: Mapping[str, Kind], *, lease: float = 10.0) -> Worker:
        return Worker(
            self.records,
            self.batcher,
            self.ringer,
            kinds,
            keeper=self.keeper,
            owner="worker",
            database=self.database,
            lease=lease,
            beat_every=lease / 3,
            lanes="chat",
        )

    @asynccontextmanager
    async def working(
        self, kinds: Mapping[str, Kind], *, lease: float = 10.0
    ) -> AsyncIterator[Worker]:
        worker = self.worker(kinds, lease=lease)
        worker.start()
        task = asyncio.create_task(work(worker, self.queue, {"chat": 10}, self.keeper))
        try:
            yield worker
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await worker.drain(0)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    built = House(tmp_path)
    built.start()
    yield built
    await built.close()

"""The jobs table as a queue.

The contract of every engine, between two processes' ends of one file.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, update

from ragqueue.queues.base import Handle, JobQueue
from ragqueue.queues.sql import SqlQueue
from ragqueue.records import jobs
from ragqueue.records.schema import migrate
from ragqueue.testing.contracts.engines import QueueContract
from ragqueue.types import Ring
from tests.databases import open_records
from tests.tables import jobs as rows

KINDS = {"chat": "chat", "background": "ingest"}


def insert(connection: Connection, wanted: list[Ring]) -> None:
    for ring in wanted:
        jobs.insert_job(connection, "acme", ring.job_id, KINDS[ring.lane], {}, 600.0)
        if ring.front:
            connection.execute(update(rows).where(rows.c.id == ring.job_id).values(place=0.0))


@pytest.mark.usefixtures("each_database")
class TestSqlQueue(QueueContract):
    @pytest.fixture
    async def queue(self, tmp_path: Path) -> AsyncIterator[SqlQueue]:
        self.records = open_records(tmp_path)
        migrate(self.records.engine)
        yield SqlQueue(self.records)
        self.records.close()

    @pytest.fixture
    async def other(self, queue: SqlQueue, tmp_path: Path) -> AsyncIterator[SqlQueue]:
        records = open_records(tmp_path)
        yield SqlQueue(records)
        records.close()

    async def submit(self, queue: JobQueue, wanted: list[Ring]) -> list[str]:
        await self.records.write(insert, wanted)
        return await super().submit(queue, wanted)

    def claiming(self, handle: Handle) -> Handle:
        async def claim(ring: Ring) -> None:
            job = await self.records.write(jobs.claim, ring.job_id, "a-worker", ring.stamp, 60.0)
            if job is not None:
                await handle(ring)

        return claim

"""The event log in SQL keeps the contract."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ragqueue.events.base import EventLog
from ragqueue.events.sql import SqlEventLog
from ragqueue.records.schema import migrate
from ragqueue.records.statements import positional
from ragqueue.testing.contracts.engines import EventLogContract
from tests.databases import open_records


@pytest.mark.usefixtures("each_database")
class TestSqlEventLog(EventLogContract):
    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[EventLog]:
        records = open_records(tmp_path)
        migrate(records.engine)
        opened = SqlEventLog(records)
        yield opened
        await opened.close()
        records.close()

    async def damage(self, log: EventLog, job_id: str, seq: int) -> None:
        assert isinstance(log, SqlEventLog)
        statement = "insert into events (job_id, seq, type, data, at) values (?, ?, 'x', '{bad', 0)"
        await log._records.note(
            lambda connection: connection.exec_driver_sql(
                positional(connection, statement), (job_id, seq)
            )
        )

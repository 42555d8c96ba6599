"""The event log in SQL keeps the contract."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ragqueue.events.base import EventLog
from ragqueue.events.sql import SqlEventLog
from ragqueue.records.schema import migrate, open_records
from ragqueue.testing.contracts.engines import EventLogContract


class TestSqlEventLog(EventLogContract):
    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[EventLog]:
        records = open_records(tmp_path)
        migrate(records.engine)
        opened = SqlEventLog(records)
        yield opened
        await opened.close()
        records.close()

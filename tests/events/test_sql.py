"""The event log in SQL keeps the contract."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ragqueue.events.base import EventLog
from ragqueue.events.sql import SqlEventLog
from ragqueue.records.schema import migrate
from ragqueue.records.store import Records, sqlite_url
from ragqueue.testing.contracts.engines import EventLogContract


class TestSqlEventLog(EventLogContract):
    @pytest.fixture
    async def log(self, tmp_path: Path) -> AsyncIterator[EventLog]:
        records = Records(sqlite_url(tmp_path))
        migrate(records.engine)
        opened = SqlEventLog(records)
        yield opened
        await opened.close()
        records.close()

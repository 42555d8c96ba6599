from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from tests.library import open_records


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    """A transaction on an empty library."""
    records = open_records(tmp_path)
    with records.engine.connect() as opened:
        opened.exec_driver_sql("BEGIN")
        yield opened
    records.close()

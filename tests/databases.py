"""The database that a test's records are on: a file, or a schema of the tests' own server."""

import hashlib
from pathlib import Path

from ragqueue.records import schema
from ragqueue.records.store import Records

server: str | None = None  # URL of a PostgreSQL; none: each folder has its file


def open_records(folder: Path) -> Records:
    """Open the records of a folder, as a process would that is given it."""
    if server is None:
        return schema.open_records(folder)
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:20]
    return schema.open_server(f"{server}?schema=t{name}")

"""The database of a run, as one looks into it from outside: a SQLite file, or a PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from ragqueue.records.sqlite import sqlite_module

Place = Path | str  # a file, or the URL of a server


@contextmanager
def opened(place: Place) -> Iterator[Any]:
    """Connect by DB-API; what is written is committed statement by statement."""
    if isinstance(place, str):
        options = "-c search_path=ragqueue"
        connection: Any = psycopg.connect(place, autocommit=True, options=options)
    else:
        # A read-only connection cannot make the files of the write-ahead log anew.
        uri = f"{place.resolve().as_uri()}?mode=rw"
        connection = sqlite_module.connect(uri, uri=True, timeout=60)
    try:
        yield connection
    finally:
        connection.close()


def rows(place: Place, query: str) -> list[Any]:
    """Return what a query without values finds."""
    with opened(place) as connection:
        return list(connection.execute(query).fetchall())

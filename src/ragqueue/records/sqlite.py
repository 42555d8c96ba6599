"""All that is SQLite's: opening, locking, keyword candidates, upkeep; what its errors mean."""

import random
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeVar

import msgspec
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError

from ragqueue.errors import StoreFull, Unavailable
from ragqueue.records.database import FEWEST_TERMS, READ, WRITE, Database, Upkeep, run

# A current SQLite where a wheel exists: Python's own is often in the WAL-reset corruption range.
try:
    import pysqlite3 as _sqlite
except ImportError:
    import sqlite3 as _sqlite
sqlite_module = _sqlite

T = TypeVar("T")

PRAGMAS = (
    "busy_timeout=10000",
    "synchronous=FULL",
    "fullfsync=ON",
    "secure_delete=ON",
    "temp_store=MEMORY",
    "cache_size=-16000",
    "mmap_size=0",
)
IN_MEMORY = 100_000_000  # bytes of a database that is written anew without a temporary file
LOCK_WAIT = 30.0  # seconds that a writer waits for the lock; above any stop a supervisor tolerates
PATCHED = ((3, 50, 7), (3, 44, 6))  # https://sqlite.org/wal.html, "the WAL-reset bug"

EMPTIED_WITHIN = 50  # looks, one each 0.1 s, at whether a reader still holds the write-ahead log

_MATCHES_BY_RANK = """
    select rowid from chunk_words where chunk_words match ? order by rank, rowid limit ?"""

_MATCHES_OF_A_TERM = """
    select rowid as number, ? as weight from chunk_words where chunk_words match ?"""

# The weights of the terms that a chunk holds are added: a third of the time of FTS5's own rank.
_MATCHES_BY_WEIGHT = """
    select number from ({matches})
    group by number
    order by sum(weight) desc, number
    limit ?"""

FILE = "records.sqlite3"  # in a data folder

# SQLite's primary result codes (https://sqlite.org/rescode.html).
GENERIC = 1  # something is wrong with the statement
FULL = 13
BUSY = frozenset({5, 6})  # BUSY, LOCKED
LASTING = frozenset({10, 11, 14, 26})  # IOERR, CORRUPT, CANTOPEN, NOTADB: a connection stays broken


def is_safe(version: tuple[int, ...] = sqlite_module.sqlite_version_info) -> bool:
    """Say whether two processes may write through this SQLite."""
    patched = any(version[:2] == fixed[:2] and version >= fixed for fixed in PATCHED)
    return patched or version >= (3, 51, 3)


def begin(connection: Connection, *, durable: bool) -> None:
    """Begin a write transaction; one that is not durable may be undone by a power cut."""
    synchronous = "FULL" if durable else "NORMAL"
    run(connection, f"PRAGMA synchronous={synchronous}")  # only between transactions
    lock(connection, "BEGIN IMMEDIATE")


def lock(connection: Connection, statement: str) -> None:
    """Run what takes the file's lock. Raises OperationalError.

    It waits with short sleeps, which SQLite's own handler does not.
    """
    end = time.monotonic() + LOCK_WAIT
    run(connection, "PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                return run(connection, statement)
            except OperationalError as error:
                if errorcode(error) not in BUSY or time.monotonic() > end:
                    raise
                time.sleep(random.uniform(0.0005, 0.003))
    finally:
        run(connection, "PRAGMA busy_timeout=10000")


def errorcode(error: OperationalError) -> int:
    """Return SQLite's primary result code."""
    return int(getattr(error.orig, "sqlite_errorcode", 0)) & 0xFF


def explained(error: Exception) -> Exception:
    """Return our error for one of the database as a whole."""
    if not isinstance(error, OperationalError) or errorcode(error) == GENERIC:
        return error  # a fault of the caller's, not of the database
    if errorcode(error) == FULL:
        return StoreFull(
            f"the disk under the data folder is full ({error.orig}): "
            "free some space, nothing was acknowledged"
        )
    return Unavailable(f"the database cannot be used now: {error.orig}")


class SqliteUpkeep(Upkeep):
    """Keeps a database file tidy."""

    def prepare(self, connection: Connection) -> None:
        # Two processes may make the file at the same moment.
        lock(connection, "PRAGMA journal_mode=WAL")

    def alone(self, connection: Connection) -> None:
        """Do nothing: writers take turns."""

    def merge_tallies(self, connection: Connection) -> None:
        """Do nothing: a trigger keeps one row of each."""

    def size(self, connection: Connection) -> int:
        pages = int(connection.exec_driver_sql("PRAGMA page_count").scalar_one())
        return pages * int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())

    def compact(self, engine: Engine, size: int) -> None:
        """Write the whole file anew; the writers wait meanwhile. Raises StoreFull, Unavailable.

        `secure_delete` overwrites what is deleted, but not the copies that moving a row between
        pages leaves behind in a page's unused part: a word of a deleted document stood there
        after 1 of 100 erasures.
        """
        where = "MEMORY" if size <= IN_MEMORY else "FILE"
        with engine.connect() as connection:
            try:
                run(connection, f"PRAGMA temp_store={where}")
                lock(connection, "VACUUM")
            except OperationalError as error:
                raise explained(error) from error
            finally:
                run(connection, "PRAGMA temp_store=MEMORY")
        self.checkpoint(engine)

    def checkpoint(self, engine: Engine) -> None:
        """Empty the write-ahead log, so that nothing deleted stands in it. Raises Unavailable."""
        for _ in range(EMPTIED_WITHIN):
            with engine.connect() as connection:
                held_up = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
            if not held_up:
                return
            time.sleep(0.1)
        raise Unavailable(
            "the write-ahead log cannot be emptied while somebody reads: try again later"
        )


class SqliteDatabase(Database):
    """A file, opened by the processes of one host."""

    writers = 1  # a second one would only wait for the lock
    group = 500
    is_file = True
    upkeep = SqliteUpkeep()

    def open_engine(self, url: URL, *, pool_size: int) -> Engine:
        engine = create_engine(
            url,
            module=sqlite_module,
            hide_parameters=True,  # what users wrote shall not stand in a traceback
            pool_size=pool_size,
            json_serializer=lambda value: msgspec.json.encode(value).decode(),
            json_deserializer=msgspec.json.decode,
        )
        event.listen(engine, "connect", _prepare)
        return engine

    def transact(
        self,
        connection: Connection,
        strength: int,
        function: Callable[..., T],
        *args: Any,
        **kwargs: Any,
    ) -> T:
        if strength == READ:
            run(connection, "BEGIN")
        else:
            begin(connection, durable=strength == WRITE)
        try:
            value = function(connection, *args, **kwargs)
            run(connection, "COMMIT")
            return value
        finally:
            if connection.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
                run(connection, "ROLLBACK")

    def explained(self, error: Exception) -> Exception:
        return explained(error)

    def breaks(self, connection: Connection, error: DBAPIError) -> bool:
        return isinstance(error, OperationalError) and errorcode(error) in LASTING

    def watch(self, engine: Engine) -> Generator[bool]:
        with closing(engine.raw_connection()) as connection:
            version = -1
            while True:  # a step takes about 10 us
                before = version
                version = connection.cursor().execute("PRAGMA data_version").fetchone()[0]
                yield version != before

    def candidates(
        self,
        connection: Connection,
        scopes: Sequence[str],
        terms: Mapping[str, float],
        limit: int,
    ) -> Sequence[int]:
        here = _any(scopes)
        if len(terms) <= FEWEST_TERMS:
            match = f"{here} AND {_any(terms)}"
            return connection.exec_driver_sql(_MATCHES_BY_RANK, (match, limit)).scalars().all()
        values: list[float | str] = []
        for term, weight in terms.items():
            values += [weight, f"{here} AND {_any([term])}"]
        query = _MATCHES_BY_WEIGHT.format(
            matches=" union all ".join([_MATCHES_OF_A_TERM] * len(terms))
        )
        return connection.exec_driver_sql(query, (*values, limit)).scalars().all()


def add_functions(connection: Any) -> None:
    """Give a connection of the driver the functions that every database has."""
    # Called once a statement, so that an index can be asked with it.
    connection.create_function("epoch", 0, time.time, deterministic=True)
    connection.create_function("hold", 1, lambda _: None)  # writers take turns


def _prepare(connection: Any, _: Any) -> None:
    """Give a new connection our way of transactions, functions and pragmas."""
    connection.isolation_level = None  # we say BEGIN ourselves
    add_functions(connection)
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _any(tokens: Iterable[str]) -> str:
    """Return FTS5's expression for rows that hold any of these tokens."""
    quoted = [f'"{token}"' for token in tokens]
    return f"({' OR '.join(quoted)})"

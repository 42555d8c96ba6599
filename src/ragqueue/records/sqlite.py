"""All that is SQLite's: how it is opened, locked, compacted and watched; what its errors mean."""

import random
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, ParamSpec, TypeVar

import msgspec
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError

from ragqueue.errors import StoreFull, Unavailable

# A current SQLite where a wheel exists: Python's own is often in the WAL-reset corruption range.
try:
    import pysqlite3 as _sqlite
except ImportError:
    import sqlite3 as _sqlite
sqlite_module = _sqlite

P = ParamSpec("P")
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

# SQLite's primary result codes (https://sqlite.org/rescode.html).
GENERIC = 1  # something is wrong with the statement
FULL = 13
BUSY = frozenset({5, 6})  # BUSY, LOCKED
LASTING = frozenset({10, 11, 14, 26})  # IOERR, CORRUPT, CANTOPEN, NOTADB: a connection stays broken

# What a transaction is for; a power cut may undo a note, never a crash of the process.
READ, NOTE, WRITE = range(3)


def is_safe(version: tuple[int, ...] = sqlite_module.sqlite_version_info) -> bool:
    """Say whether two processes may write through this SQLite."""
    patched = any(version[:2] == fixed[:2] and version >= fixed for fixed in PATCHED)
    return patched or version >= (3, 51, 3)


def open_engine(url: URL, *, pool_size: int = 5) -> Engine:
    """Return an engine with our way of transactions and our pragmas on each connection."""
    engine = create_engine(
        url,
        module=sqlite_module,
        pool_size=pool_size,
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        # Called once a statement, so that an index can be asked with it.
        connection.create_function("epoch", 0, time.time, deterministic=True)
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    return engine


def transact(
    connection: Connection,
    strength: int,
    function: Callable[..., T],
    *args: Any,
    **kwargs: Any,
) -> T:
    """Run `function(connection, ...)` in a transaction of this strength. Raises DBAPIError."""
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


def run(connection: Connection, statement: str) -> None:
    """Run a statement of transaction control. Raises OperationalError.

    It goes past SQLAlchemy, which takes ten times as long.
    """
    try:
        connection.connection.driver_connection.execute(statement)  # type: ignore[union-attr]
    except sqlite_module.OperationalError as error:
        raise OperationalError(statement, None, error) from error


def errorcode(error: OperationalError) -> int:
    """Return SQLite's primary result code."""
    return int(getattr(error.orig, "sqlite_errorcode", 0)) & 0xFF


def breaks_connection(error: OperationalError) -> bool:
    """Say whether the connection is of no use any more after this error."""
    return errorcode(error) in LASTING


def concerns_everybody(error: Exception) -> bool:
    """Say whether an error is of the database as a whole, not of one statement."""
    return isinstance(error, OperationalError) and errorcode(error) != GENERIC


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


def size(connection: Connection) -> int:
    """Return how many bytes the database file has, as of its last commit."""
    pages = int(connection.exec_driver_sql("PRAGMA page_count").scalar_one())
    return pages * int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())


def empty_log(engine: Engine) -> bool:
    """Move the write-ahead log into the file and empty it; False while a reader holds it."""
    with engine.connect() as connection:
        held_up = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
        return not held_up


def vacuum(engine: Engine, file_size: int) -> None:
    """Write the whole file anew. Raises StoreFull, Unavailable."""
    where = "MEMORY" if file_size <= IN_MEMORY else "FILE"
    with engine.connect() as connection:
        try:
            run(connection, f"PRAGMA temp_store={where}")
            lock(connection, "VACUUM")
        except OperationalError as error:
            raise explained(error) from error
        finally:
            run(connection, "PRAGMA temp_store=MEMORY")


def watch(engine: Engine) -> Generator[bool]:
    """Say at each step whether anybody has committed since the last; a step takes about 10 us.

    It has a connection of its own until it is closed.
    """
    with closing(engine.raw_connection()) as connection:
        version = -1
        while True:
            before = version
            version = connection.cursor().execute("PRAGMA data_version").fetchone()[0]
            yield version != before

"""Open the records and run plain functions on a connection, in a few threads, with two strengths of commit."""

import asyncio
import queue
import random
import sqlite3
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import QueuePool
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import Float

from ragqueue.errors import StoreFull, Unavailable, UnsafeSqlite

try:  # a current SQLite where a wheel exists: Python's own is often inside the WAL-reset corruption range
    import pysqlite3 as _sqlite
except ImportError:
    _sqlite = sqlite3
sqlite_module = _sqlite

T = TypeVar("T")
_encode = msgspec.json.Encoder().encode
GROUP = 500  # writes in one transaction, at most
LOCK_WAIT = 30.0  # seconds that a writer waits for the file's write lock; above any stop that a supervisor tolerates
PATCHED_SQLITE = ((3, 50, 7), (3, 44, 6))  # https://sqlite.org/wal.html, "the WAL-reset bug"


class now(FunctionElement[float]):
    """The store's clock, seconds since 1970 with milliseconds. Works on SQLite 3.40 (`subsec` needs 3.42)."""

    type = Float()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: Any, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: Any, **_: Any) -> str:
    return "extract(epoch from clock_timestamp())"


def to_json(value: Any) -> str:
    """Return JSON in a quarter of the time of the standard library's."""
    return _encode(value).decode()


def sqlite_is_safe(version: tuple[int, ...] = sqlite_module.sqlite_version_info) -> bool:
    """Say whether two processes may write through this SQLite."""
    return version >= (3, 51, 3) or any(version[:2] == v[:2] and version >= v for v in PATCHED_SQLITE)


class Replies:
    """Hands results of threads to an event loop, many with one wake-up: each costs a system call and a change of threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._told = False

    def give(self, future: asyncio.Future[Any], value: Any, error: BaseException | None = None) -> None:
        """End a future of the loop, from any thread."""
        self._waiting.append((future, value, error))
        if not self._told:
            self._told = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self.loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        self._told = False
        while self._waiting:
            future, value, error = self._waiting.popleft()
            if future.done():  # cancelled
                continue
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)


class Work(NamedTuple):
    """One function that waits for a thread, and the future of its caller."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    durable: bool
    future: asyncio.Future[Any]
    replies: Replies


class Records:
    """The SQL database of this process: reads in a few threads, writes in one that groups what piled up.

    `write` commits with synchronous=FULL and returns once it is on the disk; `note` commits with NORMAL, which
    a power cut may undo (never a crash of the process): for what can be made again, like token events.
    """

    def __init__(self, url: str, *, readers: int = 3) -> None:
        self.url = url
        self.engine = open_engine(url, pool_size=readers + 8)
        self._reads: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._writes: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._read_loop, name="records-read", daemon=True) for _ in range(readers)]
        self._threads.append(threading.Thread(target=self._write_loop, name="records-write", daemon=True))
        self._starting = threading.Lock()
        self._started = self._closed = False
        self._replies: Replies | None = None

    async def read(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function(connection, *args)` in a read transaction. Raises Unavailable."""
        return await self._submit(self._reads, function, args, False)

    async def write(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function(connection, *args)` and commit durably. Raises StoreFull, Unavailable: nothing was kept."""
        return await self._submit(self._writes, function, args, True)

    async def note(self, function: Callable[..., T], *args: Any) -> T:
        """Like `write`, but a power cut may undo it."""
        return await self._submit(self._writes, function, args, False)

    def _submit(
        self, to: "queue.SimpleQueue[Work | None]", function: Callable[..., T], args: tuple[Any, ...], durable: bool
    ) -> "asyncio.Future[T]":
        if self._closed:
            raise Unavailable("the records are closed")
        with self._starting:  # at the first use: a process that forks must not have threads
            if not self._started:
                self._started = True
                for thread in self._threads:
                    thread.start()
        loop = asyncio.get_running_loop()
        if self._replies is None or self._replies.loop is not loop:
            self._replies = Replies(loop)
        future: asyncio.Future[T] = loop.create_future()
        to.put(Work(function, args, durable, future, self._replies))
        return future

    async def checkpoint(self) -> None:
        """Move the write-ahead log into the file and empty it, so that nothing deleted stands in it. Raises Unavailable."""
        if self.engine.dialect.name != "sqlite":
            return
        for _ in range(50):  # a reader in the middle of a look keeps the log from being emptied
            if not await asyncio.to_thread(self._truncate_log):
                return
            await asyncio.sleep(0.1)
        raise Unavailable("the write-ahead log cannot be emptied while somebody reads: try again later")

    def _truncate_log(self) -> int:
        with self.engine.connect() as connection:
            return int(connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0])

    def watch(self) -> "Watch":
        """Return a cheap way to notice commits of any process."""
        return Watch(self.engine)

    def close(self) -> None:
        """Finish what is queued and close every connection."""
        self._closed = True
        for _ in self._threads[:-1]:
            self._reads.put(None)
        self._writes.put(None)
        for thread in self._threads if self._started else ():
            thread.join()
        self.engine.dispose()

    def _read_loop(self) -> None:
        with self.engine.connect() as connection:  # for good: taking one out of the pool for each read costs more than most reads
            while (work := self._reads.get()) is not None:
                value, failure = None, None
                try:
                    run(connection, "BEGIN")
                    value = work.function(connection, *work.args)
                except Exception as error:  # noqa: BLE001 - its waiter is given the error
                    failure = translate(error)
                if in_transaction(connection):
                    run(connection, "ROLLBACK")
                work.replies.give(work.future, value, failure)

    def _write_loop(self) -> None:
        with self.engine.connect() as connection:
            group: list[Work | None] = []
            while None not in group:  # which stands for the end
                group = [self._writes.get()]
                while len(group) < GROUP and not self._writes.empty():  # nobody else takes out of it
                    group.append(self._writes.get())
                commit_group(connection, [work for work in group if work is not None])


class Watch:
    """Notices commits through the file's version (about 10 us a look); use it in one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self._connection = engine.raw_connection()
        self._version = -1

    def changed(self) -> bool:
        """Say whether anybody has committed since the last call."""
        version: int = self._connection.cursor().execute("PRAGMA data_version").fetchone()[0]
        before, self._version = self._version, version
        return version != before

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()


def open_engine(url: str, *, pool_size: int = 5) -> Engine:
    """Return an engine with our way of transactions and, on SQLite, our pragmas on each connection."""
    if not url.startswith("sqlite"):
        return create_engine(url, pool_size=pool_size)
    options = {"check_same_thread": False, "timeout": 0}
    engine = create_engine(url, module=sqlite_module, poolclass=QueuePool, pool_size=pool_size, connect_args=options)
    event.listen(engine, "connect", _prepare)
    return engine


def _prepare(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    pragmas = ["busy_timeout=10000", "synchronous=FULL", "secure_delete=ON", "temp_store=MEMORY", "cache_size=-16000", "mmap_size=0"]
    if sys.platform == "darwin":
        pragmas.append("fullfsync=ON")
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}")


def commit_group(connection: Connection, group: Sequence[Work]) -> None:
    """Run a group in one transaction, each in its savepoint: a failure undoes its own work only."""
    replies: list[tuple[Work, Any, BaseException | None]] = []
    try:
        begin(connection, durable=any(work.durable for work in group))
        for work in [work for work in group if not work.future.cancelled()]:
            run(connection, "SAVEPOINT work")
            try:
                replies.append((work, work.function(connection, *work.args), None))
            except OperationalError:
                raise  # the disk is full or the file is away: the whole group fails
            except Exception as error:  # noqa: BLE001 - its waiter is given the error
                run(connection, "ROLLBACK TO work")
                replies.append((work, None, error))
            run(connection, "RELEASE work")
        run(connection, "COMMIT")
    except Exception as error:  # noqa: BLE001 - each waiter is given its error
        if in_transaction(connection):
            run(connection, "ROLLBACK")
        replies = [(work, None, translate(error)) for work in group]
    for work, value, failure in replies:
        work.replies.give(work.future, value, failure)


def transact(connection: Connection, function: Callable[..., T], *args: Any) -> T:
    """Run `function(connection, *args)` in a transaction that a power cut may undo, outside of any write thread. Raises DBAPIError."""
    begin(connection, durable=False)
    try:
        value = function(connection, *args)
        run(connection, "COMMIT")
        return value
    finally:
        if in_transaction(connection):
            run(connection, "ROLLBACK")


def run(connection: Connection, statement: str) -> None:
    """Run a statement of transaction control past SQLAlchemy, which takes ten times as long. Raises OperationalError."""
    try:
        connection.connection.driver_connection.execute(statement)  # type: ignore[union-attr]
    except sqlite_module.OperationalError as error:
        raise OperationalError(statement, None, error) from error


def in_transaction(connection: Connection) -> bool:
    """Say whether a transaction is open on the connection."""
    return bool(connection.connection.driver_connection.in_transaction)  # type: ignore[union-attr]


def begin(connection: Connection, *, durable: bool) -> None:
    """Begin a write transaction; waits for the file's write lock with short sleeps, which SQLite's own handler does not."""
    run(connection, f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")  # only between transactions
    end = time.monotonic() + LOCK_WAIT
    run(connection, "PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                run(connection, "BEGIN IMMEDIATE")
                return
            except OperationalError as error:
                if "locked" not in str(error.orig) or time.monotonic() > end:
                    raise
                time.sleep(random.uniform(0.0005, 0.003))
    finally:
        run(connection, "PRAGMA busy_timeout=10000")


def translate(error: BaseException) -> BaseException:
    """Turn a database's error into ours; what is a bug stays what it is."""
    if not isinstance(error, DBAPIError):
        return error
    said = str(error.orig)
    if "full" in said:
        return StoreFull(f"the disk under the data folder is full ({said}): free some space, nothing was acknowledged")
    if isinstance(error, OperationalError):
        return Unavailable(f"the database cannot be used now: {said}")
    return error


def refuse_unsafe_sqlite(url: str, *, allowed: bool) -> None:
    """Refuse a second writing process on a SQLite that can corrupt its file. Raises UnsafeSqlite."""
    if url.startswith("sqlite") and not allowed and not sqlite_is_safe():
        version = ".".join(map(str, sqlite_module.sqlite_version_info))
        raise UnsafeSqlite(
            f"SQLite {version} can corrupt a file that two processes write (its WAL-reset bug): use PostgreSQL or a newer Python, "
            "or set RAGQUEUE_ALLOW_OLD_SQLITE=1 to accept the risk"
        )


def sqlite_url(folder: Path) -> str:
    """Return the URL of the database file in a data folder."""
    return f"sqlite:///{(folder / 'records.sqlite3').as_posix()}"

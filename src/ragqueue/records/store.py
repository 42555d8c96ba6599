"""Open the records and run plain functions on a connection, in a few threads, with two strengths of commit."""

import asyncio
import queue
import random
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from typing import Any, NamedTuple, TypeVar

import msgspec
from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    Float,
    create_engine,
    event,
    literal_column,
)
from sqlalchemy.exc import OperationalError

from ragqueue.errors import StoreFull, Unavailable

try:  # a current SQLite where a wheel exists: Python's own is often inside the WAL-reset corruption range
    import pysqlite3 as _sqlite
except ImportError:
    import sqlite3 as _sqlite
sqlite_module = _sqlite

T = TypeVar("T")
GROUP = 500  # writes in one transaction, at most
READERS = 3  # threads
IN_MEMORY = 100_000_000  # bytes of a database that is written anew without a temporary file
LOCK_WAIT = 30.0  # seconds that a writer waits for the file's write lock; above any stop that a supervisor tolerates
PATCHED_SQLITE = ((3, 50, 7), (3, 44, 6))  # https://sqlite.org/wal.html, "the WAL-reset bug"
PRAGMAS = "busy_timeout=10000 synchronous=FULL fullfsync=ON secure_delete=ON temp_store=MEMORY cache_size=-16000 mmap_size=0"
# The store's clock in seconds since 1970, for Core and for text; SQLite 3.40 does not know `subsec`.
NOW: ColumnElement[float] = literal_column("((julianday('now') - 2440587.5) * 86400.0)", Float)
# SQLite's primary result codes: what is wrong with a statement, a full disk, and what a connection does not recover from.
GENERIC, FULL = 1, 13
LASTING = frozenset({10, 11, 14, 26})  # IOERR, CORRUPT, CANTOPEN, NOTADB
BUSY = frozenset({5, 6})  # BUSY, LOCKED
READ, NOTE, WRITE = range(
    3
)  # what a transaction is for; a power cut may undo a note, never a crash of the process


def to_json(value: Any) -> str:
    """Return JSON in a quarter of the time of the standard library's."""
    return msgspec.json.encode(value).decode()


def sqlite_is_safe(version: tuple[int, ...] = sqlite_module.sqlite_version_info) -> bool:
    """Say whether two processes may write through this SQLite."""
    return version >= (3, 51, 3) or any(
        version[:2] == v[:2] and version >= v for v in PATCHED_SQLITE
    )


def open_engine(url: URL, *, pool_size: int = 5) -> Engine:
    """Return an engine with our way of transactions and our pragmas on each connection."""
    engine = create_engine(
        url,
        module=sqlite_module,
        pool_size=pool_size,
        json_serializer=to_json,
        json_deserializer=msgspec.json.decode,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        for pragma in PRAGMAS.split():
            connection.execute(f"PRAGMA {pragma}")

    return engine


class Work(NamedTuple):
    """One function that waits for a thread, and the future of its caller."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    strength: int
    future: asyncio.Future[Any]


Reply = tuple[asyncio.Future[Any], Any, BaseException | None]


class Records:
    """The SQL database of this process: reads in a few threads, writes in one that groups what piled up."""

    def __init__(self, url: URL) -> None:
        self.url, self.engine = url, open_engine(url, pool_size=READERS + 8)
        self._reads, self._writes = (
            queue.SimpleQueue[Work | None](),
            queue.SimpleQueue[Work | None](),
        )
        self._threads: list[threading.Thread] = []
        self._closed = False
        self.compacting = asyncio.Lock()  # one `compact` at a time is enough

    async def read(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function(connection, *args)` in a read transaction. Raises Unavailable."""
        return await self._ask(READ, function, args)

    async def write(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function(connection, *args)` and return once it is on the disk. Raises StoreFull, Unavailable: nothing was kept."""
        return await self._ask(WRITE, function, args)

    async def note(self, function: Callable[..., T], *args: Any) -> T:
        """Like `write`, but a power cut may undo it: for what can be made again, like token events."""
        return await self._ask(NOTE, function, args)

    def _ask(
        self, strength: int, function: Callable[..., T], args: tuple[Any, ...]
    ) -> asyncio.Future[T]:
        if self._closed:
            raise Unavailable("the records are closed")
        if not self._threads:  # at the first use: a process that forks must not have threads
            queues = [(self._reads, 1)] * READERS + [(self._writes, GROUP)]
            self._threads = [
                threading.Thread(target=self._serve, args=args, name="records", daemon=True)
                for args in queues
            ]
            for thread in self._threads:
                thread.start()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        (self._reads if strength == READ else self._writes).put(
            Work(function, args, strength, future)
        )
        return future

    def _serve(self, works: queue.SimpleQueue[Work | None], most: int) -> None:
        connection: Connection | None = (
            None  # for good: one out of the pool for each read costs more than most reads
        )
        ended = False
        while not ended:
            waiting: list[Work | None] = [works.get()]
            while (
                len(waiting) < most and not works.empty()
            ):  # nobody else takes out of the queue of writes
                waiting.append(works.get())
            ended = None in waiting  # which stands for the end
            group = [work for work in waiting if work is not None]
            try:
                connection = connection or self.engine.connect()
                replies = run_group(connection, group)
            except Exception as error:  # noqa: BLE001 - a thread that dies leaves its callers waiting for ever
                replies = [(work.future, None, explained(error)) for work in group]
                if connection is not None:
                    discard(connection)
                connection = None
            settle(replies)
        if connection is not None:
            connection.close()

    async def checkpoint(self) -> None:
        """Move the write-ahead log into the file and empty it, so that nothing deleted stands in it. Raises Unavailable."""
        for _ in range(50):  # a reader in the middle of a look keeps the log from being emptied
            if not await asyncio.to_thread(self._truncate_log):
                return
            await asyncio.sleep(0.1)
        raise Unavailable(
            "the write-ahead log cannot be emptied while somebody reads: try again later"
        )

    async def size(self) -> int:
        """Return how many bytes the database file has, as of its last commit. Raises Unavailable."""
        return await self.read(_size)

    async def compact(self) -> None:
        """Write the whole file anew. Raises StoreFull, Unavailable.

        `secure_delete` overwrites what is deleted, but not the copies that moving a row between pages leaves behind in
        a page's unused part: a word of a deleted document stood there after 1 of 100 erasures. The writers wait meanwhile.
        """
        await asyncio.to_thread(self._vacuum, await self.size())
        await self.checkpoint()

    def _truncate_log(self) -> int:
        with self.engine.connect() as connection:
            return int(connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0])

    def _vacuum(self, size: int) -> None:
        with self.engine.connect() as connection:
            try:
                run(connection, f"PRAGMA temp_store={'MEMORY' if size <= IN_MEMORY else 'FILE'}")
                lock(connection, "VACUUM")
            except OperationalError as error:
                raise explained(error) from error
            finally:
                run(connection, "PRAGMA temp_store=MEMORY")

    def close(self) -> None:
        """Finish what is queued and close every connection."""
        self._closed = True
        for works in [self._reads] * READERS + [self._writes]:
            works.put(None)  # ends one thread
        for thread in self._threads:
            thread.join()
        self.engine.dispose()


def _size(connection: Connection) -> int:
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    return int(pages) * int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())


def settle(replies: Sequence[Reply]) -> None:
    """End futures from any thread, all of a loop with one wake-up: each costs a system call and a change of threads."""

    def end(mine: Sequence[Reply]) -> None:
        for future, value, error in mine:
            if not future.done():  # cancelled
                future.set_result(value) if error is None else future.set_exception(error)

    for loop in {future.get_loop() for future, _, _ in replies}:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(
                end, [reply for reply in replies if reply[0].get_loop() is loop]
            )


def discard(connection: Connection) -> None:
    """Close a connection whose database failed: the next use opens another."""
    with suppress(Exception):  # it is broken
        connection.invalidate()
    with suppress(Exception):
        connection.close()


def run_group(connection: Connection, group: Sequence[Work]) -> list[Reply]:
    """Run a group in one transaction as strong as its strongest work. Raises OperationalError when the database fails: nothing was kept."""
    strength = max((work.strength for work in group), default=READ)
    try:
        return transact(connection, _run_each, group, strength=strength)
    except OperationalError as error:
        if _errorcode(error) in LASTING:
            raise
        return [(work.future, None, explained(error)) for work in group]
    except Exception as error:  # noqa: BLE001 - each waiter is given its error
        return [(work.future, None, error) for work in group]


def explained(error: Exception) -> Exception:
    """Return our error for one of the database as a whole."""
    if not isinstance(error, OperationalError) or _errorcode(error) == GENERIC:
        return error  # a fault of the caller's, not of the database
    if _errorcode(error) == FULL:
        text = f"the disk under the data folder is full ({error.orig}): free some space, nothing was acknowledged"
        return StoreFull(text)
    return Unavailable(f"the database cannot be used now: {error.orig}")


def _errorcode(error: OperationalError) -> int:
    """Return SQLite's primary result code (https://sqlite.org/rescode.html)."""
    return int(getattr(error.orig, "sqlite_errorcode", 0)) & 0xFF


def _run_each(connection: Connection, group: Sequence[Work]) -> list[Reply]:
    if len(group) == 1:
        return [(work.future, work.function(connection, *work.args), None) for work in group]
    replies: list[Reply] = []
    for work in group:  # in a savepoint of its own: a failure undoes its own work only
        run(connection, "SAVEPOINT work")
        try:
            replies.append((work.future, work.function(connection, *work.args), None))
        except Exception as error:
            if isinstance(error, OperationalError) and _errorcode(error) != GENERIC:
                raise  # the disk is full or the file is away: that is everybody's
            run(connection, "ROLLBACK TO work")
            replies.append((work.future, None, error))
        run(connection, "RELEASE work")
    return replies


def transact(
    connection: Connection, function: Callable[..., T], *args: Any, strength: int = NOTE
) -> T:
    """Run `function(connection, *args)` in a transaction, which a power cut may undo by default. Raises DBAPIError."""
    run(connection, "BEGIN") if strength == READ else begin(connection, durable=strength == WRITE)
    try:
        value = function(connection, *args)
        run(connection, "COMMIT")
        return value
    finally:
        if connection.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
            run(connection, "ROLLBACK")


def begin(connection: Connection, *, durable: bool) -> None:
    """Begin a write transaction."""
    run(
        connection, f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}"
    )  # only between transactions
    lock(connection, "BEGIN IMMEDIATE")


def lock(connection: Connection, statement: str) -> None:
    """Run what takes the file's lock; waits for it with short sleeps, which SQLite's own handler does not. Raises OperationalError."""
    end = time.monotonic() + LOCK_WAIT
    run(connection, "PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                return run(connection, statement)
            except OperationalError as error:
                if _errorcode(error) not in BUSY or time.monotonic() > end:
                    raise
                time.sleep(random.uniform(0.0005, 0.003))
    finally:
        run(connection, "PRAGMA busy_timeout=10000")


def run(connection: Connection, statement: str) -> None:
    """Run a statement of transaction control past SQLAlchemy, which takes ten times as long. Raises OperationalError."""
    try:
        connection.connection.driver_connection.execute(statement)  # type: ignore[union-attr]
    except sqlite_module.OperationalError as error:
        raise OperationalError(statement, None, error) from error


def watch(engine: Engine) -> Generator[bool]:
    """Say at each step, which takes about 10 us, whether anybody has committed since the last; on a connection of its own until closed."""
    with closing(engine.raw_connection()) as connection:
        version = -1
        while True:
            before, version = (
                version,
                connection.cursor().execute("PRAGMA data_version").fetchone()[0],
            )
            yield version != before

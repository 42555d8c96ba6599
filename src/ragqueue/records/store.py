"""The records of this process: plain functions run on a connection, in a few threads.

Writes pile up while the last ones are committed, and are then committed together.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from sqlalchemy import URL, Connection
from sqlalchemy.exc import DBAPIError

from ragqueue.errors import Unavailable
from ragqueue.records.database import LOOSE, NOTE, READ, WRITE, Database, database_of, run

P = ParamSpec("P")
T = TypeVar("T")
READERS = 3  # threads


class Work(NamedTuple):
    """One function that waits for a thread, and the future of its caller."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    strength: int
    future: asyncio.Future[Any]

    def do(self, connection: Connection) -> Any:
        """Call the function."""
        return self.function(connection, *self.args, **self.kwargs)


class Reply(NamedTuple):
    """What a future is to be ended with."""

    future: asyncio.Future[Any]
    value: Any
    error: BaseException | None


class Session:
    """A connection of its own, for one thread that must not wait behind others."""

    def __init__(self, url: URL) -> None:
        self._database = database_of(url.get_backend_name())
        self._engine = self._database.open_engine(url, pool_size=1)
        self._connection: Connection | None = None

    def read(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `function(connection, ...)` outside of a transaction. Raises DBAPIError."""
        return self._do(lambda connection: function(connection, *args, **kwargs))

    def note(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run it in a transaction, which a power cut may undo. Raises DBAPIError."""
        return self._do(
            lambda connection: self._database.transact(connection, NOTE, function, *args, **kwargs)
        )

    def _do(self, use: Callable[[Connection], T]) -> T:
        if self._connection is None:
            self._connection = self._engine.connect()
        try:
            return use(self._connection)
        except BaseException:
            discard(self._connection)
            self._connection = None
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
        self._engine.dispose()


class Records:
    """The SQL database of this process: reads in a few threads, writes in one, grouped."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.database = database_of(url.get_backend_name())
        self.engine = self.database.open_engine(url, pool_size=READERS + 8)
        self.compacting = asyncio.Lock()  # one `compact` at a time is enough
        self._reads: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._writes: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False

    async def read(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `function(connection, ...)` in a read transaction. Raises Unavailable."""
        return await self._ask(READ, function, args, kwargs)

    async def write(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `function(connection, ...)` and return once it is on the disk.

        Raises StoreFull, Unavailable: nothing was kept.
        """
        return await self._ask(WRITE, function, args, kwargs)

    async def note(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Like `write`, but a power cut may undo it: for what can be made again."""
        return await self._ask(NOTE, function, args, kwargs)

    async def loosely(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Like `note`, but a crash of the database may undo it: for what its writer knows, too."""
        return await self._ask(LOOSE, function, args, kwargs)

    def _ask(
        self,
        strength: int,
        function: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> asyncio.Future[T]:
        if self._closed:
            raise Unavailable("the records are closed")
        if not self._threads:  # at the first use: a process that forks must not have threads
            self._start_threads()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        works = self._reads if strength == READ else self._writes
        works.put(Work(function, args, kwargs, strength, future))
        return future

    def _start_threads(self) -> None:
        reading = [(self._reads, 1)] * READERS
        writing = [(self._writes, self.database.group)] * self.database.writers
        for works, most in [*reading, *writing]:
            thread = threading.Thread(
                target=self._serve, args=(works, most), name="records", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _serve(self, works: queue.SimpleQueue[Work | None], most: int) -> None:
        """Do what waits in a queue, until its end (None) comes; this is a thread's life."""
        # For good: a connection out of the pool for each read costs more than most reads.
        connection: Connection | None = None
        ended = False
        while not ended:
            group, ended = take(works, most)
            try:
                connection = connection or self.engine.connect()
                replies = run_group(self.database, connection, group)
            except Exception as error:  # noqa: BLE001 - callers of a dead thread wait for ever
                explained = self.database.explained(error)
                replies = [Reply(work.future, None, explained) for work in group]
                if connection is not None:
                    discard(connection)
                connection = None
            settle(replies)
        if connection is not None:
            connection.close()

    def session(self) -> Session:
        """Return a connection for a thread of its own."""
        return Session(self.url)

    def watch(self) -> Generator[bool]:
        """Say at each step whether anybody has committed since the last."""
        return self.database.watch(self.engine)

    async def size(self) -> int:
        """Return how many bytes the database has, as of its last commit.

        Raises Unavailable.
        """
        return await self.read(self.database.upkeep.size)

    async def compact(self) -> None:
        """Leave nothing of what was deleted in the files. Raises StoreFull, Unavailable."""
        await asyncio.to_thread(self.database.upkeep.compact, self.engine, await self.size())

    def close(self) -> None:
        """Finish what is queued and close every connection."""
        self._closed = True
        for works in [*[self._reads] * READERS, *[self._writes] * self.database.writers]:
            works.put(None)  # ends one thread
        for thread in self._threads:
            thread.join()
        self.engine.dispose()


def take(works: queue.SimpleQueue[Work | None], most: int) -> tuple[list[Work], bool]:
    """Wait for work; return what is there, at most so much, and whether the end is among it."""
    waiting = [works.get()]
    while len(waiting) < most and not works.empty():  # nobody else takes from the queue of writes
        waiting.append(works.get())
    return [work for work in waiting if work is not None], None in waiting


def run_group(database: Database, connection: Connection, group: Sequence[Work]) -> list[Reply]:
    """Run a group in one transaction, as strong as its strongest work.

    Raises DBAPIError when the connection is of no use any more: nothing was kept.
    """
    strength = max((work.strength for work in group), default=READ)
    try:
        return database.transact(connection, strength, _run_each, database, group)
    except DBAPIError as error:
        if database.breaks(connection, error):
            raise
        return [Reply(work.future, None, database.explained(error)) for work in group]
    except Exception as error:  # noqa: BLE001 - each waiter is given its error
        return [Reply(work.future, None, error) for work in group]


def _run_each(connection: Connection, database: Database, group: Sequence[Work]) -> list[Reply]:
    if len(group) == 1:
        return [Reply(group[0].future, group[0].do(connection), None)]
    replies: list[Reply] = []
    for work in group:  # in a savepoint of its own: a failure undoes its own work only
        run(connection, "SAVEPOINT work")
        try:
            replies.append(Reply(work.future, work.do(connection), None))
        except Exception as error:
            if database.explained(error) is not error:
                raise  # the disk is full or the file is away
            run(connection, "ROLLBACK TO work")
            replies.append(Reply(work.future, None, error))
        run(connection, "RELEASE work")
    return replies


def settle(replies: Sequence[Reply]) -> None:
    """End futures from any thread, all of a loop with one wake-up.

    Each wake-up costs a system call and a change of threads.
    """

    def end(mine: Sequence[Reply]) -> None:
        for future, value, error in mine:
            if future.done():  # cancelled
                continue
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

    for loop in {reply.future.get_loop() for reply in replies}:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            mine = [reply for reply in replies if reply.future.get_loop() is loop]
            loop.call_soon_threadsafe(end, mine)


def discard(connection: Connection) -> None:
    """Close a connection whose database failed: the next use opens another."""
    with suppress(Exception):  # it is broken
        connection.invalidate()
    with suppress(Exception):
        connection.close()

"""The port of the records' database: what is needed of it beyond SQL that is one text for all."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, TypeVar

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError

from ragqueue.errors import ConfigError

T = TypeVar("T")

# What a transaction is for. A power cut of all that knows of it may undo a note, never a crash of
# our process, nor of a database that is on another host. A loose one may be undone by that, too.
READ, LOOSE, NOTE, WRITE = range(4)

# Terms that are looked up however common they are. So few are ranked by the database's own rank.
FEWEST_TERMS = 2

# By SQLAlchemy's name of the dialect: module and class, and the extra that brings its packages.
_DATABASES = {
    "sqlite": ("ragqueue.records.sqlite:SqliteDatabase", ""),
    "postgresql": ("ragqueue.records.postgres:PostgresDatabase", "postgres"),
}


class Upkeep(ABC):
    """What keeps a database tidy: making it, measuring it, and leaving nothing of what is gone."""

    @abstractmethod
    def prepare(self, connection: Connection) -> None:
        """Make ready for a first look at what is there, before any transaction."""

    @abstractmethod
    def alone(self, connection: Connection) -> None:
        """Keep others from migrating until this transaction ends."""

    @abstractmethod
    def merge_tallies(self, connection: Connection) -> None:
        """Add up the tallies that writers left apart so as not to wait for each other."""

    @abstractmethod
    def size(self, connection: Connection) -> int:
        """Return how many bytes the database has, as of its last commit."""

    @abstractmethod
    def compact(self, engine: Engine, size: int) -> None:
        """Leave nothing of what was deleted in its files. Raises StoreFull, Unavailable.

        `size`: of the database, bytes.
        """


class Database(ABC):
    """A database that keeps the records.

    Each connection has the SQL functions `epoch()`, the store's clock in seconds since 1970;
    `json_each(text)`, the rows (key, value) of a list or a map; and `hold(text)`, which keeps the
    names of a list for this transaction until it ends, where writers do not take turns anyway.
    A server has `announce()`, too, which wakes who watches once the transaction is committed.
    """

    writers: ClassVar[int]  # threads of a process that write
    group: ClassVar[int]  # writes in one transaction, at most
    is_file: ClassVar[bool]  # it is opened by the processes of one host
    upkeep: Upkeep

    @abstractmethod
    def open_engine(self, url: URL, *, pool_size: int) -> Engine:
        """Return an engine whose connections are prepared for the records."""

    @abstractmethod
    def transact(
        self,
        connection: Connection,
        strength: int,
        function: Callable[..., T],
        *args: Any,
        **kwargs: Any,
    ) -> T:
        """Run `function(connection, ...)` in a transaction of this strength. Raises DBAPIError.

        It may run more than once where another transaction was in the way.
        """

    @abstractmethod
    def explained(self, error: Exception) -> Exception:
        """Return StoreFull or Unavailable for an error of the database as a whole, else itself."""

    @abstractmethod
    def breaks(self, connection: Connection, error: DBAPIError) -> bool:
        """Say whether the connection is of no use any more after this error."""

    @abstractmethod
    def watch(self, engine: Engine) -> Generator[bool]:
        """Say at each step whether anybody has committed since the last.

        It has a connection of its own until it is closed.
        """

    @abstractmethod
    def candidates(
        self,
        connection: Connection,
        scopes: Sequence[str],
        terms: Mapping[str, float],
        limit: int,
    ) -> Sequence[int]:
        """Return the numbers of the chunks in these scopes that these words speak for most.

        `terms`: word -> weight.
        """


def run(connection: Connection, statement: str) -> None:
    """Run a statement of transaction control. Raises DBAPIError.

    It goes past SQLAlchemy, which takes ten times as long.
    """
    driver: Any = connection.connection.driver_connection
    module: Any = connection.dialect.loaded_dbapi
    try:
        driver.execute(statement)
    except module.Error as error:
        raise DBAPIError.instance(
            statement, None, error, module.Error, dialect=connection.dialect
        ) from error


@cache
def database_of(dialect: str) -> Database:
    """Return the database of a dialect. Raises ConfigError when its package is missing."""
    target, extra = _DATABASES[dialect]
    module, _, name = target.partition(":")
    try:
        made = getattr(importlib.import_module(module), name)()
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"records on {dialect} need {error.name!r}, which is not installed: "
            f"pip install 'ragqueue[{extra}]'",
            code="missing_extra",
        ) from error
    assert isinstance(made, Database)
    return made

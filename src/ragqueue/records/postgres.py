"""All that is PostgreSQL's: opening, transactions, keyword candidates, upkeep; its errors."""

import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from ragqueue.errors import StoreFull, Unavailable
from ragqueue.records.database import FEWEST_TERMS, LOOSE, NOTE, READ, WRITE, Database, Upkeep, run

T = TypeVar("T")
SCHEMA = "ragqueue"  # unless the URL says `?schema=...`
TRIES = 5  # of a transaction that met others
# Deadlock, serialization failure, and a unique key that another made a moment ago.
CONFLICTS = frozenset({"40P01", "40001", "23505"})
FULL = "53100"
NOTICED_WITHIN = 5  # seconds, that a server or a network is away
LISTENED = 1.0  # seconds between two looks at whether a listener shall end
CONNECT_AGAIN = 0.5  # seconds after a listener lost its server

BEGINS = {
    # One state of the database for all statements of a function.
    READ: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    LOOSE: "BEGIN; SET LOCAL synchronous_commit = off",
    # Whatever the server's own setting: it may crash while those who know of the write go on.
    NOTE: "BEGIN; SET LOCAL synchronous_commit = on",
    WRITE: "BEGIN; SET LOCAL synchronous_commit = on",
}
# The plans that SQLite has: loops over indexes. Left alone, the planner reads all events to find
# those of 200 streams (41-88 ms each time).
SESSION = {
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "jit": "off",
    "idle_in_transaction_session_timeout": "60s",
}

_BY_RANK = """
    select number from chunks
    where words @@ cast(%s as tsquery)
    order by ts_rank(words, cast(%s as tsquery), 1) desc, number
    limit %s"""

_BY_WEIGHT = """
    select c.number from unnest(%s::text[], %s::float8[]) as term (query, weight)
    join chunks c on c.words @@ cast(term.query as tsquery)
    group by c.number
    order by sum(term.weight) desc, c.number
    limit %s"""
_ALONE = "SELECT pg_advisory_xact_lock(hashtextextended('{schema}', 0))"

_MERGE_TALLIES = """
    with apart as (
        delete from tallies
        where (select count(*) > count(distinct (lane, state, tenant)) from tallies)
        returning *)
    insert into tallies (lane, state, tenant, jobs, tries, deaths)
    select lane, state, tenant, sum(jobs), sum(tries), sum(deaths) from apart
    group by lane, state, tenant
    having sum(jobs) <> 0"""

# Where something was deleted, or overwritten, that must not stay in the table's pages.
_TABLES = "versions, chunks, uploads, upload_parts, answers, quotes, events, documents, jobs, terms"


class PostgresUpkeep(Upkeep):
    """Keeps a schema of a server tidy."""

    def prepare(self, connection: Connection) -> None:
        schema = _schema_of(connection.engine.url)
        # Two processes may make it at the same moment: the lock lasts to the end of the batch.
        run(connection, f'{_ALONE.format(schema=schema)}; CREATE SCHEMA IF NOT EXISTS "{schema}"')

    def alone(self, connection: Connection) -> None:
        run(connection, _ALONE.format(schema=_schema_of(connection.engine.url)))

    def merge_tallies(self, connection: Connection) -> None:
        connection.exec_driver_sql(_MERGE_TALLIES)

    def size(self, connection: Connection) -> int:
        statement = """
            select coalesce(sum(pg_total_relation_size(oid)), 0) from pg_class
            where relnamespace = current_schema()::regnamespace and relkind = 'r'"""
        return int(connection.exec_driver_sql(statement).scalar_one())

    def compact(self, engine: Engine, size: int) -> None:
        """Empty the pages of what was deleted. Its copies in the server's own log go with time.

        Raises StoreFull, Unavailable.
        """
        try:
            with engine.connect() as connection:
                run(connection, f"VACUUM {_TABLES}")
        except DBAPIError as error:
            raise explained(error) from error


class PostgresDatabase(Database):
    """A schema of a server, for any number of hosts."""

    writers = 4  # their commits share a flush
    group = 1  # of several works in one transaction, the row locks would meet crosswise
    is_file = False
    upkeep = PostgresUpkeep()

    def open_engine(self, url: URL, *, pool_size: int) -> Engine:
        schema = _schema_of(url)
        options = {**SESSION, "search_path": f'"{schema}"'}
        arguments: dict[str, Any] = {
            "connect_timeout": NOTICED_WITHIN,
            "tcp_user_timeout": NOTICED_WITHIN * 1000,
            "keepalives_idle": 3,
            "keepalives_interval": 1,
            "keepalives_count": 2,
            "application_name": "ragqueue",
            "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
            "prepare_threshold": 2,
        }
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            isolation_level="AUTOCOMMIT",  # we say BEGIN ourselves
            hide_parameters=True,  # what users wrote shall not stand in a traceback
            pool_size=pool_size,
            max_overflow=0,
            connect_args={
                name: value for name, value in arguments.items() if name not in url.query
            },
        )
        event.listen(engine, "do_connect", _without_schema)
        return engine

    def transact(
        self,
        connection: Connection,
        strength: int,
        function: Callable[..., T],
        *args: Any,
        **kwargs: Any,
    ) -> T:
        for last in range(TRIES):
            _begin(connection, BEGINS[strength])
            try:
                value = function(connection, *args, **kwargs)
                run(connection, "COMMIT")
                return value
            except DBAPIError as error:
                if _state_of(error) not in CONFLICTS or last == TRIES - 1:
                    raise
            finally:
                _end(connection)
        raise AssertionError("unreachable")

    def explained(self, error: Exception) -> Exception:
        return explained(error)

    def breaks(self, connection: Connection, error: DBAPIError) -> bool:
        return _is_lost(connection)

    def watch(self, engine: Engine) -> Generator[bool]:
        heard = threading.Event()
        ended = threading.Event()
        listener = threading.Thread(
            target=_listen, args=(engine, heard, ended), name="listener", daemon=True
        )
        listener.start()
        try:
            while True:
                news = heard.is_set()
                if news:  # what comes between the two is told with it
                    heard.clear()
                yield news
        finally:
            ended.set()

    def candidates(
        self,
        connection: Connection,
        scopes: Sequence[str],
        terms: Mapping[str, float],
        limit: int,
    ) -> Sequence[int]:
        here = _any(scopes)
        if len(terms) <= FEWEST_TERMS:
            said = _any(terms)
            given: tuple[Any, ...] = (f"{here} & {said}", said, limit)
            return connection.exec_driver_sql(_BY_RANK, given).scalars().all()
        queries = [f"{here} & {_any([term])}" for term in terms]
        given = (queries, list(terms.values()), limit)
        return connection.exec_driver_sql(_BY_WEIGHT, given).scalars().all()


def explained(error: Exception) -> Exception:
    """Return our error for one of the server as a whole."""
    if not isinstance(error, OperationalError | InterfaceError):
        return error  # a fault of the caller's, not of the server
    if _state_of(error) == FULL:
        return StoreFull(
            "the disk of the PostgreSQL server is full: free some space, nothing was acknowledged"
        )
    first_line = str(error.orig).strip().partition("\n")[0]
    return Unavailable(f"the database cannot be used now: {first_line}")


def _without_schema(_: Any, __: Any, ___: Any, arguments: dict[str, Any]) -> None:
    """Leave our own part of the URL to us."""
    arguments.pop("schema", None)


def _schema_of(url: URL) -> str:
    schema = url.query.get("schema", SCHEMA)
    assert isinstance(schema, str)
    return schema


def _begin(connection: Connection, statement: str) -> None:
    """Begin, on a new connection when the server has hung up."""
    try:
        run(connection, statement)
    except DBAPIError:
        if not _is_lost(connection):
            raise
        connection.invalidate()
        connection.rollback()  # SQLAlchemy's own: now it may connect again
        run(connection, statement)


def _end(connection: Connection) -> None:
    """Roll back what was not committed."""
    if _is_lost(connection):
        return
    driver: Any = connection.connection.driver_connection
    if driver.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:  # no round trip
        run(connection, "ROLLBACK")


def _is_lost(connection: Connection) -> bool:
    if connection.invalidated:
        return True
    driver: Any = connection.connection.driver_connection
    return driver is None or bool(driver.closed)


def _state_of(error: DBAPIError) -> str | None:
    state: str | None = getattr(error.orig, "sqlstate", None)
    return state


def _listen(engine: Engine, heard: threading.Event, ended: threading.Event) -> None:
    """Set `heard` whenever somebody announces something, and after each new connection."""
    channel = _schema_of(engine.url)
    while not ended.is_set():
        try:
            with engine.connect() as connection:
                driver: Any = connection.connection.driver_connection
                run(connection, f'LISTEN "{channel}"')
                heard.set()
                while not ended.is_set():
                    for _ in driver.notifies(timeout=LISTENED, stop_after=1):
                        heard.set()
                connection.invalidate()  # nobody else shall be told what it listens to
        except (DBAPIError, psycopg.Error):
            ended.wait(CONNECT_AGAIN)


def _any(tokens: Iterable[str]) -> str:
    """Return the expression for rows that hold any of these tokens."""
    quoted = ["'" + token.replace("\\", "\\\\").replace("'", "''") + "'" for token in tokens]
    return f"({' | '.join(quoted)})"

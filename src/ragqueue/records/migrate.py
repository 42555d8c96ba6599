"""Bring a database to this version's schema, and refuse one that a newer version wrote."""

from pathlib import Path
from tempfile import TemporaryFile

from sqlalchemy import Connection, Engine, inspect, select, text

from ragqueue.errors import ConfigError, DatabaseTooNew
from ragqueue.records.schema import facts
from ragqueue.records.store import WRITE, Records, lock, sqlite_url, transact

HEAD = "0001"
_FOLDER = Path(__file__).with_name("migrations")


def open_records(folder: Path) -> Records:
    """Open the database of a data folder, which is made. Raises ConfigError when it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(f"the data folder {str(folder)!r} cannot be written ({error.strerror}): set RAGQUEUE_DATA to another") from error
    return Records(sqlite_url(folder))


def migrate(engine: Engine) -> str:
    """Bring the database to HEAD and return its UUID, which its first migration made. Raises DatabaseTooNew."""
    with engine.connect() as connection:
        lock(connection, "PRAGMA journal_mode=WAL")  # two processes may make the file at the same moment
        if _revision(connection) != HEAD:
            transact(connection, _upgrade, strength=WRITE)
        return str(connection.execute(select(facts.c.value).where(facts.c.name == "uuid")).scalar_one())


def _revision(connection: Connection) -> str | None:
    known = inspect(connection).has_table("alembic_version")
    return connection.execute(text("select version_num from alembic_version")).scalar() if known else None


def _upgrade(connection: Connection) -> None:
    from alembic.operations import Operations  # imported when there is something to do: it costs 0.2 s
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    revision = _revision(connection)  # another process may have been faster
    if revision not in (None, *(path.name[:4] for path in _FOLDER.glob("[0-9]*.py"))):
        raise DatabaseTooNew(
            f"the database is of revision {revision!r}, which this version (up to {HEAD!r}) does not know: "
            "install the version of ragqueue that wrote it, or a newer one"
        )
    script = ScriptDirectory(str(_FOLDER), version_locations=[str(_FOLDER)])
    options = {"fn": lambda rev, _: script._upgrade_revs(HEAD, rev), "transactional_ddl": False}
    context = MigrationContext.configure(connection, opts=options)
    with Operations.context(context):
        context.run_migrations()

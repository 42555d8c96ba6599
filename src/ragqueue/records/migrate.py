"""Bring a database to this version's schema, give it its UUID, and refuse one that a newer version wrote."""

import uuid
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, select, text

from ragqueue.errors import ConfigError, DatabaseTooNew
from ragqueue.records.schema import facts
from ragqueue.records.store import Records, begin, sqlite_url

HEAD = "0001"
_FOLDER = Path(__file__).with_name("migrations")


def migrate(engine: Engine) -> str:
    """Bring the database to HEAD and return its UUID. Raises DatabaseTooNew."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        if _revision(connection) == HEAD:
            return database_uuid(connection)
        begin(connection, durable=True)
        revision = _revision(connection)
        if revision not in (None, *(path.name[:4] for path in _FOLDER.glob("[0-9]*.py"))):
            connection.exec_driver_sql("ROLLBACK")
            raise DatabaseTooNew(
                f"the database is of revision {revision!r}, which this version (up to {HEAD!r}) does not know: "
                "install the version of ragqueue that wrote it, or a newer one"
            )
        if revision != HEAD:
            _upgrade(connection)
        known = database_uuid(connection)
        connection.exec_driver_sql("COMMIT")
        return known


def database_uuid(connection: Connection) -> str:
    """Return the database's UUID, made at its first migration."""
    found = connection.execute(select(facts.c.value).where(facts.c.name == "uuid")).scalar()
    if found is None:
        found = uuid.uuid4().hex
        connection.execute(facts.insert(), {"name": "uuid", "value": found})
    return found


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("select version_num from alembic_version")).scalar()


def _upgrade(connection: Connection) -> None:
    from alembic.config import Config  # imported when there is something to do: it costs 0.2 s
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    for option in ("script_location", "version_locations"):
        config.set_main_option(option, str(_FOLDER))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    with EnvironmentContext(config, script, fn=lambda rev, _: script._upgrade_revs(HEAD, rev)) as environment:
        environment.configure(connection=connection, transactional_ddl=False)
        environment.run_migrations()


def open_records(folder: Path) -> Records:
    """Open the database of a data folder, which is made. Raises ConfigError when it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"the data folder {str(folder)!r} cannot be written ({error.strerror}): set RAGQUEUE_DATA to another") from error
    return Records(sqlite_url(folder))

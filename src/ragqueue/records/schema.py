"""How a database gets its tables: the migrations, which are plain SQL (`migrations/*.sql`).

Tenant is in every key.
"""

import re
from pathlib import Path
from tempfile import TemporaryFile

from sqlalchemy import URL, Connection, Engine, inspect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from ragqueue.errors import ConfigError, told, without_password
from ragqueue.records.database import WRITE, database_of
from ragqueue.records.sqlite import FILE
from ragqueue.records.statements import sql
from ragqueue.records.store import Records

HEAD = "0005"
_LAST_OF_SQLITE_ALONE = "0005"
_FOLDER = Path(__file__).with_name("migrations")
_FORM = "it must look like postgresql://user:password@host:5432/database"
_REVISION = sql("select version_num from alembic_version")
_UUID = sql("select value from facts where name = 'uuid'")


def open_either(url: str | None, folder: Path) -> Records:
    """Open the records on a server, where there is a URL, or else of a folder.

    Raises ConfigError.
    """
    return open_records(folder) if url is None else open_server(url)


def open_server(url: str) -> Records:
    """Open the records on a server. Raises ConfigError when the URL is none."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(f"RAGQUEUE_DATABASE_URL is {without_password(url)!r}: {_FORM}") from error
    if parsed.get_backend_name() != "postgresql":
        raise ConfigError(f"RAGQUEUE_DATABASE_URL is {without_password(url)!r}: {_FORM}")
    schema = parsed.query.get("schema", "")
    if "schema" in parsed.query and not re.fullmatch("[a-z_][a-z0-9_]{0,62}", str(schema)):
        raise ConfigError(
            f"the schema of RAGQUEUE_DATABASE_URL is {schema!r}: "
            "one name of small letters, digits and _ that begins with no digit"
        )
    return Records(parsed)


def open_records(folder: Path) -> Records:
    """Open the database of a data folder, which is made.

    Raises ConfigError when it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:  # ValueError: a NUL
        raise ConfigError(
            f"the data folder {str(folder)!r} cannot be written ({told(error)}): "
            "set RAGQUEUE_DATA to another"
        ) from error
    return Records(URL.create("sqlite", database=str(folder.absolute() / FILE)))


def migrate(engine: Engine) -> str:
    """Bring the database to HEAD and return its UUID, which its first migration made.

    Raises ConfigError, StoreFull, Unavailable.
    """
    database = database_of(engine.dialect.name)
    try:
        with engine.connect() as connection:
            database.upkeep.prepare(connection)
            is_new = not inspect(connection).has_table("alembic_version")
            if is_new or connection.scalar(_REVISION) != HEAD:
                database.transact(connection, WRITE, _upgrade)
            return str(connection.execute(_UUID).scalar_one())
    except DBAPIError as error:
        raise database.explained(error) from error


def statements(migration: Path, dialect: str) -> list[str]:
    """Return the statements of a migration: each ends with a semicolon at the end of a line.

    There are none for PostgreSQL in a migration that is older than its support: its schema begins
    as it stood then.
    """
    path = migration.with_suffix(".sql" if dialect == "sqlite" else f".{dialect}.sql")
    if not path.exists() and migration.name[:4] <= _LAST_OF_SQLITE_ALONE:
        return []
    texts = path.read_text(encoding="utf-8").split(";\n")
    return [text for text in texts if text.strip()]


def _upgrade(connection: Connection) -> None:
    from alembic.operations import Operations  # when there is something to do: it costs 0.2 s
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    database_of(connection.dialect.name).upkeep.alone(connection)
    script = ScriptDirectory(str(_FOLDER), version_locations=[str(_FOLDER)])
    options = {"fn": lambda rev, _: script._upgrade_revs(HEAD, rev), "transactional_ddl": False}
    context = MigrationContext.configure(connection, opts=options)
    revision = context.get_current_revision()  # another process may have been faster
    if revision not in (None, *(path.name[:4] for path in _FOLDER.glob("[0-9]*.py"))):
        raise ConfigError(
            f"the database is of revision {revision!r}, this version knows up to {HEAD!r}: "
            "install the version of ragqueue that wrote it, or a newer one",
            code="database_too_new",
        )
    with Operations.context(context):
        context.run_migrations()

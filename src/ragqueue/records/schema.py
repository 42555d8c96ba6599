"""The tables of the records, for statements to name, and how a database gets them (`migrations/*.sql`). Tenant is in every key."""

from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from sqlalchemy import (
    JSON,
    URL,
    Boolean,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    inspect,
    select,
    text,
)
from sqlalchemy.types import NullType, TypeEngine

from ragqueue.errors import ConfigError, told
from ragqueue.records.sqlite import WRITE, lock, transact
from ragqueue.records.store import Records

HEAD = "0003"
_FOLDER = Path(__file__).with_name("migrations")
# A word after a colon says how a column is read; the database numbers a `key`.
_TYPES: dict[str, TypeEngine[Any]] = {
    "": NullType(),
    "json": JSON(none_as_null=True),
    "bool": Boolean(),
    "key": Integer(),
}


def _table(words: str) -> Table:
    name, *columns = (word.partition(":") for word in words.split())
    return Table(
        name[0],
        MetaData(),
        *(Column(column, _TYPES[kind], primary_key=kind == "key") for column, _, kind in columns),
    )


facts = _table("facts name value")
api_keys = _table("api_keys tenant id hash name created_at revoked_at")
jobs = _table(
    "jobs tenant id kind lane state payload:json attempt tries deaths place run_at deadline_at rung_at claimed_stamp owner lease_until "
    "cancel_requested:bool created_at started_at ended_at result:json error_code error_message retry_of idempotency document_id log_dropped:bool"
)
answers = _table("answers tenant job_id attempt body:json created_at")
quotes = _table("quotes tenant document_id job_id")
events = _table("events job_id seq type data at")
tallies = _table("tallies lane state tenant jobs tries deaths")
workers = _table("workers owner host pid lanes started_at beat_at running")
counters = _table("counters name labels value")
collections = _table("collections tenant name generation created_at")
documents = _table(
    "documents tenant id collection source media_type title version state sha256 language chunks error created_at updated_at hidden_at "
    "erased_at counts:json erasure cleared_at"
)
uploads = _table("uploads tenant id document_id data created_at")
versions = _table(
    "versions tenant document_id version text blocks:json pages sha256 created_at replaced_at"
)
chunks = _table(
    "chunks number:key tenant collection generation document_id version start end page heading_path:json language tokens length vector"
)
removals = _table("removals seq:key tenant collection generation number at")
terms = _table("terms tenant collection generation term df")
spaces = _table("spaces tenant collection generation language chunks length")


def open_records(folder: Path) -> Records:
    """Open the database of a data folder, which is made. Raises ConfigError when it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:  # ValueError: a NUL
        raise ConfigError(
            f"the data folder {str(folder)!r} cannot be written ({told(error)}): set RAGQUEUE_DATA to another"
        ) from error
    return Records(URL.create("sqlite", database=str(folder.absolute() / "records.sqlite3")))


def migrate(engine: Engine) -> str:
    """Bring the database to HEAD and return its UUID, which its first migration made. Raises ConfigError."""
    with engine.connect() as connection:
        lock(
            connection, "PRAGMA journal_mode=WAL"
        )  # two processes may make the file at the same moment
        known = inspect(connection).has_table("alembic_version")
        if not known or connection.scalar(text("select version_num from alembic_version")) != HEAD:
            transact(connection, WRITE, _upgrade)
        return str(
            connection.execute(select(facts.c.value).where(facts.c.name == "uuid")).scalar_one()
        )


def statements(path: Path) -> list[str]:
    """Return the statements of a migration: each ends with a semicolon at the end of a line."""
    return [
        statement
        for statement in path.read_text(encoding="utf-8").split(";\n")
        if statement.strip()
    ]


def _upgrade(connection: Connection) -> None:
    from alembic.operations import (
        Operations,
    )  # imported when there is something to do: it costs 0.2 s
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(_FOLDER), version_locations=[str(_FOLDER)])
    options = {"fn": lambda rev, _: script._upgrade_revs(HEAD, rev), "transactional_ddl": False}
    context = MigrationContext.configure(connection, opts=options)
    revision = context.get_current_revision()  # another process may have been faster
    if revision not in (None, *(path.name[:4] for path in _FOLDER.glob("[0-9]*.py"))):
        said = f"the database is of revision {revision!r}, this version knows up to {HEAD!r}"
        raise ConfigError(
            f"{said}: install the version of ragqueue that wrote it, or a newer one",
            code="database_too_new",
        )
    with Operations.context(context):
        context.run_migrations()

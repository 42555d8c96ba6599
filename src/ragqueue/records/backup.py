"""Copies of a database file: one is taken while everybody works, and put where none is yet.

https://sqlite.org/lang_vacuum.html#vacuuminto: the copy is one state of the database, compacted,
so that nothing deleted stands in it.
"""

import os
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from ragqueue.errors import ConfigError, told
from ragqueue.records.database import run
from ragqueue.records.sqlite import FILE, explained, sqlite_module


def backup(engine: Engine, copy: Path) -> int:
    """Write one state of the database into a new file; return its bytes.

    Raises ConfigError, StoreFull, Unavailable.
    """
    if copy.exists():
        raise ConfigError(f"{str(copy)!r} exists: name a file that does not")
    part = copy.with_name(f"{copy.name}.part")  # a copy that breaks off must not look like one
    try:
        part.write_bytes(b"")  # says at once whether it can be written
        with engine.connect() as connection:
            quoted = str(part.absolute()).replace("'", "''")
            run(connection, f"VACUUM INTO '{quoted}'")
        _sync(part)
        part.rename(copy)
    except DBAPIError as error:
        raise explained(error) from error
    except OSError as error:
        raise ConfigError(f"{str(copy)!r} cannot be written ({told(error)})") from error
    finally:
        _drop(part)
    return copy.stat().st_size


def restore(copy: Path, folder: Path) -> Path:
    """Put a copy into a data folder that has no database; return the file.

    Raises ConfigError.
    """
    place = folder / FILE
    part = folder / f"{FILE}.part"
    # Its write-ahead log, too: what stands in one that was left would be written into the copy.
    for there in sorted(set(folder.glob(f"{FILE}*")) - {part}):
        raise ConfigError(
            f"{str(there)!r} exists: end every process, move it away, and restore again"
        )
    _check(copy)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with copy.open("rb") as source, part.open("wb") as target:
            while data := source.read(1_000_000):
                target.write(data)
        _forget_workers(part)
        _sync(part)
        part.rename(place)
    except (OSError, sqlite_module.Error) as error:
        raise ConfigError(f"{str(place)!r} cannot be written ({told(error)})") from error
    finally:
        _drop(part)
    return place


def _check(copy: Path) -> None:
    """Raise ConfigError for what is no whole database of ours."""
    if not copy.is_file():
        raise ConfigError(f"there is no file {str(copy)!r}")
    uri = f"{copy.resolve().as_uri()}?mode=ro&immutable=1"
    connection = sqlite_module.connect(uri, uri=True)
    try:
        [(state,)] = connection.execute("pragma integrity_check(1)").fetchall()
        connection.execute("select value from facts where name = 'uuid'").fetchone()
    except sqlite_module.DatabaseError as error:
        raise ConfigError(f"{str(copy)!r} is no backup of ours ({error})") from error
    finally:
        connection.close()
    if state != "ok":
        raise ConfigError(f"{str(copy)!r} is damaged ({state}): use another backup")


def _forget_workers(copy: Path) -> None:
    """Forget who worked on what was copied: none of them works here."""
    connection = sqlite_module.connect(copy)
    try:
        connection.execute("delete from workers")
        connection.commit()
    finally:
        connection.close()


def _drop(part: Path) -> None:
    """Remove what is left of a copy that broke off."""
    with suppress(OSError):
        part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())

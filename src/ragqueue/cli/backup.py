"""A copy of the records, and back."""

import asyncio
from pathlib import Path

import click

from ragqueue.cli import options
from ragqueue.cli.call import Call
from ragqueue.cli.command import Command
from ragqueue.errors import ConfigError

_OF_A_SERVER = (
    "the records are on PostgreSQL: copy its schema with the server's own tools (pg_dump), "
    "which do so while everybody works"
)


@click.command("backup", cls=Command)
@click.argument("file", type=click.Path(dir_okay=False))
@options.data
@options.json
def backup(file: str, data: str | None, as_json: bool) -> None:
    """Copy the records into a new FILE, while everybody works."""
    call = Call({"data": data}, as_json=as_json)
    if call.settings.database_url is not None:
        raise ConfigError(_OF_A_SERVER)
    size = asyncio.run(call.backup(Path(file)))
    call.show({"file": file, "bytes": size})


@click.command("restore", cls=Command)
@click.argument("file", type=click.Path(dir_okay=False))
@options.data
@options.json
def restore(file: str, data: str | None, as_json: bool) -> None:
    """Put a backup into a data folder that has no records yet."""
    from ragqueue.records.backup import restore as put_back

    call = Call({"data": data}, as_json=as_json)
    if call.settings.database_url is not None:
        raise ConfigError(_OF_A_SERVER)
    place = put_back(Path(file), call.settings.data)
    call.show({"file": str(place)})

"""What the commands share: options, settings, and output for people or as JSON."""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ragqueue.settings import Loaded, load
from ragqueue.telemetry import configure_logging

DATA = click.Option(["--data"], type=click.Path(file_okay=False), help="Folder of the database (RAGQUEUE_DATA)")
JSON = click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object as the last line")
TENANT = click.Option(["--tenant"], default="default", show_default=True, help="Whose")
_FLAGS = ("data", "host", "port", "processes", "concurrency")  # options that are settings


def prepare(flags: Mapping[str, Any], *, quiet: bool = False) -> Loaded:
    """Read the settings and set up the process's logs."""
    loaded = load(flags)
    configure_logging("ERROR" if quiet else loaded.settings.log_level, loaded.settings.log_format)
    return loaded


def address(url: str) -> str:
    """Return a queue's URL without its password."""
    return url.partition("@")[2] or url


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under their columns."""
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    Console(soft_wrap=True).print(table)


@dataclass(frozen=True, slots=True)
class Call:
    """What every command is given: its settings, whose records it looks at, and how it prints."""

    flags: Mapping[str, Any]
    loaded: Loaded
    as_json: bool
    tenant: str

    def say(self, value: Any, text: str = "") -> None:
        """Print an object as one line of JSON, or say it in words."""
        print(json.dumps(value, ensure_ascii=False) if self.as_json else text, flush=True)

    def show(self, value: Any, columns: Sequence[str] = ("field", "value"), rows: Iterable[Sequence[Any]] | None = None) -> None:
        """Print an object as one line of JSON, or as a table: of `rows`, by default of its items."""
        self.say(value) if self.as_json else print_table(columns, value.items() if rows is None else rows)

    async def records(self, function: Callable[[Any], Any], *, write: bool = False) -> Any:
        """Return what a function of the records returns; with `write` it may change them."""
        from ragqueue.records.migrate import migrate, open_records  # here: `config show` needs no database

        records = open_records(self.loaded.settings.data)
        try:
            await asyncio.to_thread(migrate, records.engine)
            return await (records.write if write else records.read)(function)
        finally:
            records.close()


class Command(click.Command):
    """A command whose function, often async, is given a `Call` and then its own options; one with `--json` logs errors only."""

    def __init__(self, *, params: Sequence[click.Parameter], common: Sequence[click.Parameter] = (DATA, JSON), **rest: Any) -> None:
        super().__init__(params=[*params, *common], **rest)

    def invoke(self, ctx: click.Context) -> None:
        words = dict(ctx.params)
        flags = {name: words.pop(name) for name in _FLAGS if name in words}
        call = Call(flags, prepare(flags, quiet="as_json" in words), words.pop("as_json", False), words.pop("tenant", "default"))
        assert self.callback is not None
        running = self.callback(call, **words)
        if running is not None:
            asyncio.run(running)

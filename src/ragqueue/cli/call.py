"""One command as it was called: its settings, the records it looks at, and how it prints."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from ragqueue.errors import NotFound

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ragqueue.embedded import Ragqueue
    from ragqueue.records.store import Records

P = ParamSpec("P")
T = TypeVar("T")
UNBROKEN = 100_000  # columns of what is no terminal


class Call:
    """One command as it was called."""

    def __init__(
        self, flags: Mapping[str, Any], *, as_json: bool | None = None, tenant: str = "default"
    ) -> None:
        """Load the settings and configure the logs. Raises ConfigError.

        `flags`: options that are settings; `as_json` is None for a command without `--json`.
        """
        from ragqueue.settings import load
        from ragqueue.telemetry import configure_logging

        self.flags = flags
        self.as_json = as_json
        self.tenant = tenant
        self.settings, self.origins = load(flags)
        level = self.settings.log_level
        if as_json is not None:
            level = "ERROR"
        configure_logging(level, self.settings.log_format)

    def show(self, value: Mapping[str, Any], *columns: str) -> None:
        """Print an object: one line of JSON, or for people a table of its fields.

        Each list in it gets a table of its own, with these columns.
        """
        if self.as_json:
            print(json.dumps(value, ensure_ascii=False), flush=True)
            return
        fields: list[Mapping[str, Any]] = []
        tables = [fields]
        for name, inner in value.items():
            if isinstance(inner, list):
                tables.append(inner)
            else:
                fields.append({"field": name, "value": inner})
        for rows in tables:
            if rows:
                print_table(rows, columns or list(rows[0]))

    async def read(
        self,
        function: "Callable[Concatenate[Connection, P], T]",
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Return `function(connection, ...)` of the records. Raises Unavailable."""
        with self._open_records() as records:
            return await records.read(function, *args, **kwargs)

    async def write(
        self,
        function: "Callable[Concatenate[Connection, P], T]",
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Return `function(connection, ...)` once what it wrote is on the disk.

        Raises StoreFull, Unavailable.
        """
        with self._open_records() as records:
            return await records.write(function, *args, **kwargs)

    async def backup(self, copy: Path) -> int:
        """Copy the records of the data folder into a new file; return its bytes.

        Raises ConfigError, StoreFull, Unavailable.
        """
        from ragqueue.records.backup import backup

        with self._open_records() as records:
            return await asyncio.to_thread(backup, records.engine, copy)

    @contextmanager
    def _open_records(self) -> Iterator["Records"]:
        from ragqueue.records.schema import migrate, open_either

        settings = self.settings
        with closing(open_either(settings.database_url, settings.data)) as records:
            migrate(records.engine)
            yield records


def existing(value: T | None, name: str) -> T:
    """Return what the records gave for a name. Raises NotFound when that is nothing."""
    if not value:
        raise NotFound(f"there is no {name}: `list` shows what there is")
    return value


def print_table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Print a table for people; who reads a pipe gets whole lines."""
    from rich.console import Console
    from rich.table import Column, Table

    columns = [Column(name, no_wrap=name == "id") for name in names]
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in names))
    width = None if sys.stdout.isatty() else UNBROKEN
    console = Console(width=width, soft_wrap=True, markup=False, emoji=False, highlight=False)
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {inner}" for name, inner in value.items())
    return str(value)


@asynccontextmanager
async def opened(call: Call) -> AsyncIterator["Ragqueue"]:
    """Open the system; tell who waits for a worker of the deployment that there is none."""
    from ragqueue.embedded import Ragqueue

    async with Ragqueue(tenant=call.tenant, settings=call.flags) as ragqueue:
        if not ragqueue.runtime.queue.works_inside and not await ragqueue.workers():
            print(
                "no worker is running: this waits until one is (`ragqueue worker`)",
                file=sys.stderr,
                flush=True,
            )
        yield ragqueue

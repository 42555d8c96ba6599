"""One command as it was called: its settings, the records it looks at, and how it prints."""

import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table

from ragqueue.errors import NotFound
from ragqueue.records.schema import migrate, open_records
from ragqueue.settings import load
from ragqueue.telemetry import configure_logging

if TYPE_CHECKING:
    from ragqueue.embedded import Ragqueue

UNBROKEN = 100_000  # columns of what is no terminal


class Call:
    """One command as it was called."""

    def __init__(self, flags: Mapping[str, Any], as_json: bool | None, tenant: str) -> None:
        """`flags`: options that are settings; `as_json` is None for a command without `--json`."""
        self.flags = flags
        self.as_json = as_json
        self.tenant = tenant
        self.settings, self.origins = load(flags)
        level = "ERROR" if as_json is not None else self.settings.log_level
        configure_logging(level, self.settings.log_format)

    def show(self, value: Mapping[str, Any], *columns: str) -> None:
        """Print an object: one line of JSON, or for people a table of its fields.

        Each list in it gets a table of its own, with these columns.
        """
        if self.as_json:
            print(json.dumps(value, ensure_ascii=False), flush=True)
            return
        lists = [inner for inner in value.values() if isinstance(inner, list)]
        fields = [
            {"field": name, "value": inner}
            for name, inner in value.items()
            if not isinstance(inner, list)
        ]
        for rows in [fields, *lists]:
            if rows:
                print_table(rows, columns or list(rows[0]))

    async def records(
        self, function: Callable[..., Any], *args: Any, wanted: str = "", write: bool = False
    ) -> Any:
        """Return `function(connection, *args)` of the records.

        Raises NotFound when what is wanted is not there.
        """
        with closing(open_records(self.settings.data)) as records:
            migrate(records.engine)
            run = records.write if write else records.read
            value = await run(function, *args)
        if wanted and not value:
            raise NotFound(f"there is no {wanted}: `list` shows what there is")
        return value


def print_table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Print a table for people; who reads a pipe gets whole lines."""
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
    from ragqueue.embedded import Ragqueue  # here: who only looks at the records does without

    async with Ragqueue(tenant=call.tenant, settings=call.flags) as ragqueue:
        if not ragqueue.runtime.queue.works_inside and not await ragqueue.workers():
            print(
                "no worker is running: this waits until one is (`ragqueue worker`)",
                file=sys.stderr,
                flush=True,
            )
        yield ragqueue

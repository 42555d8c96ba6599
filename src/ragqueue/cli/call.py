"""One command as it was called: its settings, the records it looks at, and how it prints."""

import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
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

UNBROKEN = 100_000  # columns of what is no terminal: who reads a pipe wants whole lines


class Call:
    """One command as it was called: its settings, whose records it looks at, and how it prints (`as_json` None: it has no `--json`)."""

    def __init__(self, flags: Mapping[str, Any], as_json: bool | None, tenant: str) -> None:
        self.flags, self.as_json, self.tenant = flags, as_json, tenant
        self.settings, self.origins = load(flags)
        configure_logging(
            "ERROR" if as_json is not None else self.settings.log_level, self.settings.log_format
        )

    def show(self, value: Mapping[str, Any], *columns: str) -> None:
        """Print an object as one line of JSON; for people as a table of its fields, and one of each list with these columns."""
        if self.as_json:
            return print(json.dumps(value, ensure_ascii=False), flush=True)
        fields = [
            {"field": name, "value": found}
            for name, found in value.items()
            if not isinstance(found, list)
        ]
        for rows in filter(
            None, (fields, *(found for found in value.values() if isinstance(found, list)))
        ):
            names = columns or list(rows[0])
            table = Table(
                *(Column(name, no_wrap=name == "id") for name in names),
                box=None,
                header_style="bold",
                pad_edge=False,
            )
            for row in rows:
                table.add_row(*(_cell(row[name]) for name in names))
            width = None if sys.stdout.isatty() else UNBROKEN
            Console(width=width, soft_wrap=True, markup=False, emoji=False, highlight=False).print(
                table
            )

    async def records(
        self, function: Callable[..., Any], *args: Any, wanted: str = "", write: bool = False
    ) -> Any:
        """Return `function(connection, *args)` of the records. Raises NotFound when what is wanted is not there."""
        with closing(open_records(self.settings.data)) as records:
            migrate(records.engine)
            found = await (records.write if write else records.read)(function, *args)
        if wanted and not found:
            raise NotFound(f"there is no {wanted}: `list` shows what there is")
        return found


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {found}" for name, found in value.items())
    return "" if value is None else str(value)


@asynccontextmanager
async def opened(call: Call) -> AsyncIterator["Ragqueue"]:
    """Open the system; tell who waits for a worker of the deployment that there is none."""
    from ragqueue.embedded import (
        Ragqueue,
    )  # here: a command that only looks at the records does without

    async with Ragqueue(tenant=call.tenant, settings=call.flags) as ragqueue:
        if call.settings.queue_url != "sql" and not await ragqueue.workers():
            print(
                "no worker is running: this waits until one is (`ragqueue worker`)",
                file=sys.stderr,
                flush=True,
            )
        yield ragqueue

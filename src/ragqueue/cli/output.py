"""Print results for people or as JSON, and run async commands."""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import click

from ragqueue.settings import Loaded, load
from ragqueue.telemetry import configure_logging

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line")
data_option = click.option("--data", type=click.Path(file_okay=False), help="Folder of the database (RAGQUEUE_DATA)")


def prepare(flags: Mapping[str, Any] | None = None, *, quiet: bool = False) -> Loaded:
    """Read the settings and set up the process: logs, and one thread for each native library."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before faiss is loaded; its own call covers one thread only
    loaded = load(flags)
    configure_logging("ERROR" if quiet else loaded.settings.log_level, loaded.settings.log_format)
    return loaded


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run an async command; Ctrl+C ends it quietly."""
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)


def print_json(value: Any) -> None:
    """Print one object on one line."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under their columns."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    Console(soft_wrap=True).print(table)

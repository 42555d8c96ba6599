"""Bring files and folders in."""

import asyncio
import sys
import time
from typing import TYPE_CHECKING

import click

from ragqueue.cli import options
from ragqueue.cli.call import Call, opened
from ragqueue.cli.command import Command

if TYPE_CHECKING:
    from rich.progress import Progress

    from ragqueue.embedded import Ingested


@click.command("ingest", cls=Command)
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--collection", default="default", help="Collection that the documents belong to")
@options.data
@options.json
def ingest(paths: tuple[str, ...], collection: str, data: str | None, as_json: bool) -> None:
    """Bring files and folders in. Waits until they can be asked about."""
    call = Call({"data": data}, as_json=as_json)
    began = time.monotonic()
    done = asyncio.run(_ingest(call, paths, collection, began))
    call.show(
        {
            "files": done.files,
            "ready": len(done.ready),
            "unchanged": len(done.unchanged),
            "failed": done.failed,
            "passages": done.chunks,
            "seconds": round(time.monotonic() - began, 3),
        }
    )
    if done.failed and len(done.failed) == done.files:
        sys.exit(1)


async def _ingest(call: Call, paths: tuple[str, ...], collection: str, began: float) -> "Ingested":
    """Bring them in, and show how far it is; `began`: monotonic. Raises NotFound."""
    bar = _progress_bar(hidden=call.as_json or not sys.stderr.isatty())
    async with opened(call) as ragqueue:
        with bar:
            task = bar.add_task("", total=None)

            def advance(done: "Ingested", files: int) -> None:
                seconds = time.monotonic() - began
                rate = f"{done.files / seconds:.1f} files/s, {done.chunks / seconds:.0f} passages/s"
                bar.update(task, total=files, completed=done.files, description=rate)

            return await ragqueue.ingest(*paths, collection=collection, progress=advance)


def _progress_bar(*, hidden: bool) -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True),
        disable=hidden,
    )

"""Documents: bring them in, list, show and delete them."""

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ragqueue.cli.call import Call, opened
from ragqueue.records import documents

if TYPE_CHECKING:
    from ragqueue.embedded import Ingested

ALL = 100_000  # documents that a list shows, at most
COLUMNS = ("id", "collection", "source", "state", "chunks", "error")


async def docs_list(call: Call, collection: str | None) -> None:
    """List documents."""
    rows = await call.records(
        lambda connection: documents.listed(
            connection, call.tenant, collection=collection, after="", limit=ALL
        )
    )
    call.show({"documents": [document._asdict() for document in rows]}, *COLUMNS)


async def docs_show(call: Call, document_id: str, text: bool) -> None:
    """Show a document, or print its canonical text."""
    document = await call.records(
        documents.get, call.tenant, document_id, wanted=f"document {document_id!r}"
    )
    if not text:
        call.show(document._asdict())
        return
    stored = await call.records(
        documents.text_of, call.tenant, document_id, None, wanted=f"text of {document_id!r}"
    )
    print(stored[0])


async def ingest(call: Call, paths: tuple[str, ...], collection: str) -> None:
    """Bring files and folders in; status 1 when all of them failed."""
    began = time.monotonic()
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True),
        disable=call.as_json or not sys.stderr.isatty(),
    )

    def advance(done: "Ingested", files: int) -> None:
        seconds = time.monotonic() - began
        rate = f"{done.files / seconds:.1f} files/s, {done.chunks / seconds:.0f} passages/s"
        bar.update(task, total=files, completed=done.files, description=rate)

    async with opened(call) as ragqueue:
        with bar:
            task = bar.add_task("", total=None)
            done = await ragqueue.ingest(*paths, collection=collection, progress=advance)
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
    all_failed = bool(done.failed) and len(done.failed) == done.files
    sys.exit(all_failed)


async def docs_delete(call: Call, document_id: str) -> None:
    """Delete a document, and show its receipt once it is erased."""
    async with opened(call) as ragqueue:
        receipt = await ragqueue.delete(document_id)
    call.show(receipt._asdict())

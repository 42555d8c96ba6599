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

_BAR = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))


async def docs_list(call: Call, collection: str | None) -> None:
    found = await call.records(
        lambda c: documents.listed(c, call.tenant, collection=collection, after="", limit=100_000)
    )
    call.show(
        {"documents": [document._asdict() for document in found]},
        "id",
        "collection",
        "source",
        "state",
        "chunks",
        "error",
    )


async def docs_show(call: Call, document_id: str, text: bool) -> None:
    document = await call.records(
        documents.get, call.tenant, document_id, wanted=f"document {document_id!r}"
    )
    if not text:
        return call.show(document._asdict())
    print(
        (
            await call.records(
                documents.text_of, call.tenant, document_id, None, wanted=f"text of {document_id!r}"
            )
        )[0]
    )


async def ingest(call: Call, paths: tuple[str, ...], collection: str) -> None:
    began = time.monotonic()
    async with opened(call) as ragqueue:
        with Progress(
            *_BAR, console=Console(stderr=True), disable=call.as_json or not sys.stderr.isatty()
        ) as bar:
            task = bar.add_task("", total=None)

            def show(done: "Ingested", files: int) -> None:
                seconds = time.monotonic() - began
                rate = f"{done.files / seconds:.1f} files/s, {done.chunks / seconds:.0f} passages/s"
                bar.update(task, total=files, completed=done.files, description=rate)

            done = await ragqueue.ingest(*paths, collection=collection, progress=show)
    found = {
        "files": done.files,
        "ready": len(done.ready),
        "unchanged": len(done.unchanged),
        "failed": done.failed,
    }
    call.show(found | {"passages": done.chunks, "seconds": round(time.monotonic() - began, 3)})
    sys.exit(bool(done.failed) and len(done.failed) == done.files)


async def docs_delete(call: Call, document_id: str) -> None:
    async with opened(call) as ragqueue:
        call.show((await ragqueue.delete(document_id))._asdict())

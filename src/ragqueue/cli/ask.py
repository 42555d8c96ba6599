"""`ingest`, `ask` and `search`: the system in this process, or the deployment's workers behind the same records."""

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ragqueue.cli.command import Call, Command, print_table
from ragqueue.embedded import Ingested, Ragqueue
from ragqueue.jobs.views import DELTA, RESTARTED
from ragqueue.records import documents
from ragqueue.retrieval.base import hit_view

_BAR = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[rate]}"))


@asynccontextmanager
async def opened(call: Call) -> AsyncIterator[Ragqueue]:
    """Open the system; tell who waits for a worker of the deployment that there is none."""
    async with Ragqueue(tenant=call.tenant, settings=call.flags) as ragqueue:
        if ragqueue.runtime.settings.queue_url != "sql" and not await ragqueue.workers():
            print("no worker is running: this waits until one is (`ragqueue worker`)", file=sys.stderr, flush=True)
        yield ragqueue


@click.command(cls=Command)
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--collection", default="default", help="Collection that the documents belong to")
async def ingest(call: Call, paths: tuple[str, ...], collection: str) -> None:
    """Bring files and folders in and wait until they can be asked about."""
    began = time.monotonic()
    async with opened(call) as ragqueue:
        with Progress(*_BAR, console=Console(stderr=True), disable=call.as_json or not sys.stderr.isatty()) as bar:
            task = bar.add_task("ingest", total=None, rate="")

            def show(done: Ingested, files: int) -> None:
                seconds = max(0.001, time.monotonic() - began)
                rate = f"{done.files / seconds:.1f} files/s, {done.chunks / seconds:.0f} passages/s"
                bar.update(task, total=files, completed=done.files, rate=rate)

            done = await ragqueue.ingest(*paths, collection=collection, progress=show)
    seconds = time.monotonic() - began
    ready, unchanged, failed = len(done.ready), len(done.unchanged), len(done.failed)
    if failed and not call.as_json:
        print_table(("failed", "why"), sorted(done.failed.items()))
    found = {"files": done.files, "ready": ready, "unchanged": unchanged, "failed": done.failed, "passages": done.chunks}
    text = f"{ready} documents with {done.chunks} passages in {seconds:.1f} s; {unchanged} unchanged, {failed} failed"
    call.say(found | {"seconds": round(seconds, 3)}, text)
    if failed and not (ready or unchanged):
        sys.exit(1)


@click.command(cls=Command)
@click.argument("question")
@click.option("--collection", help="Only documents of this collection")
@click.option("--limit", type=click.IntRange(1, 50), help="Passages that the answer is written from")
async def ask(call: Call, question: str, collection: str | None, limit: int | None) -> None:
    """Ask a question and stream the answer with its citations."""
    async with opened(call) as ragqueue:
        if call.as_json:
            call.say((await ragqueue.ask(question, collection=collection, limit=limit)).view)
        else:
            await print_answer(ragqueue, question, collection, limit)


async def print_answer(ragqueue: Ragqueue, question: str, collection: str | None = None, limit: int | None = None) -> None:
    """Stream an answer to standard output, then its citations."""
    async for event in ragqueue.stream(question, collection=collection, limit=limit):
        if event.type == DELTA:
            print(event.data["delta"], end="", flush=True)
        elif event.type == RESTARTED:
            print("\n-- the answer begins anew --", flush=True)
    view = event.data["response"]
    print()
    if view["error"]:
        sys.exit(f"{view['status']}: {view['error']['message']} [{view['error']['code']}]")
    for citation in view["answer"]["citations"]:
        document = await ragqueue.runtime.records.read(documents.get, "default", citation["document_id"])
        source = document.source if document else citation["document_id"]
        page = f", page {citation['page']}" if citation["page"] else ""
        print(f"  [{citation['n']}] {source}{page} ({citation['start']}-{citation['end']}): {citation['quote']!r}")
    for hit in {hit["document_id"]: hit for hit in view["answer"].get("nearest", [])}.values():
        print(f"  nearest: {hit['source']}: {hit['text'][:160]!r}")


@click.command(cls=Command)
@click.argument("question")
@click.option("--collection", help="Only documents of this collection")
@click.option("--limit", type=click.IntRange(1, 100), default=5, show_default=True, help="Passages to show")
async def search(call: Call, question: str, collection: str | None, limit: int) -> None:
    """Show the passages nearest to a question."""
    async with Ragqueue(settings=call.flags) as ragqueue:
        hits = await ragqueue.search(question, collection=collection, limit=limit)
    if call.as_json:
        call.say({"hits": [hit_view(hit) for hit in hits]})
        return
    for n, hit in enumerate(hits, 1):
        where = " > ".join((hit.chunk.title, *hit.chunk.heading_path))
        print(f"{n}. {hit.score:.3f}  {hit.chunk.source}  {where}\n   {' '.join(hit.chunk.text.split())[:300]}")

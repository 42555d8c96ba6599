"""`ingest`, `ask` and `search`: the system in this process, or the deployment's workers behind the same records."""

import sys
import time
from typing import Any

import click

from ragqueue.cli.output import data_option, json_option, prepare, print_json, print_table, run


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--collection", default="default", help="Collection that the documents belong to")
@data_option
@json_option
def ingest(paths: tuple[str, ...], collection: str, data: str | None, as_json: bool) -> None:
    """Bring files and folders in and wait until they can be asked about."""
    prepare({"data": data}, quiet=True)
    run(lambda: _ingest(paths, collection, data, as_json))


async def _ingest(paths: tuple[str, ...], collection: str, data: str | None, as_json: bool) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ragqueue.embedded import Ingested, Ragqueue

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[rate]}"))
    began = time.monotonic()
    async with Ragqueue(settings={"data": data}) as ragqueue:
        await say_when_no_worker(ragqueue)
        with Progress(*columns, console=Console(stderr=True), disable=as_json or not sys.stderr.isatty()) as bar:
            task = bar.add_task("ingest", total=None, rate="")

            def show(done: Ingested, files: int) -> None:
                seconds = max(0.001, time.monotonic() - began)
                bar.update(
                    task,
                    total=files,
                    completed=done.files,
                    rate=f"{done.files / seconds:.1f} files/s, {done.chunks / seconds:.0f} passages/s",
                )

            done = await ragqueue.ingest(*paths, collection=collection, progress=show)
    seconds = time.monotonic() - began
    if as_json:
        print_json({
            "files": done.files, "ready": len(done.ready), "unchanged": len(done.unchanged), "failed": done.failed, "passages": done.chunks,
            "seconds": round(seconds, 3),
        })  # fmt: skip
    else:
        if done.failed:
            print_table(("failed", "why"), sorted(done.failed.items()))
        print(
            f"{len(done.ready)} documents with {done.chunks} passages in {seconds:.1f} s; {len(done.unchanged)} unchanged, {len(done.failed)} failed"
        )
    if done.failed and not (done.ready or done.unchanged):
        sys.exit(1)


async def say_when_no_worker(ragqueue: Any) -> None:
    """Tell who waits for a worker of the deployment that there is none."""
    if ragqueue.runtime.settings.queue_url != "sql" and not await ragqueue.workers():
        print("no worker is running: this waits until one is (`ragqueue worker`)", file=sys.stderr, flush=True)


@click.command()
@click.argument("question")
@click.option("--collection", help="Only documents of this collection")
@click.option("--limit", type=click.IntRange(1, 50), help="Passages that the answer is written from")
@data_option
@json_option
def ask(question: str, collection: str | None, limit: int | None, data: str | None, as_json: bool) -> None:
    """Ask a question and stream the answer with its citations."""
    prepare({"data": data}, quiet=True)
    run(lambda: _ask(question, collection, limit, data, as_json))


async def _ask(question: str, collection: str | None, limit: int | None, data: str | None, as_json: bool) -> None:
    from ragqueue.embedded import Ragqueue

    async with Ragqueue(settings={"data": data}) as ragqueue:
        await say_when_no_worker(ragqueue)
        if as_json:
            print_json((await ragqueue.ask(question, collection=collection, limit=limit)).view)
        else:
            await print_answer(ragqueue, question, collection, limit)


async def print_answer(ragqueue: Any, question: str, collection: str | None = None, limit: int | None = None) -> None:
    """Stream an answer to standard output, then its citations."""
    from ragqueue.jobs.views import DELTA, RESTARTED

    terminal: Any = None
    async for event in ragqueue.stream(question, collection=collection, limit=limit):
        if event.type == DELTA:
            print(event.data["delta"], end="", flush=True)
        elif event.type == RESTARTED:
            print("\n-- the answer begins anew --", flush=True)
        terminal = event
    view = terminal.data["response"]
    print()
    if view["error"]:
        print(f"{view['status']}: {view['error']['message']} [{view['error']['code']}]", file=sys.stderr)
        sys.exit(1)
    names = {hit["document_id"]: hit for hit in view["answer"].get("nearest", [])}
    for citation in view["answer"]["citations"]:
        page = f", page {citation['page']}" if citation["page"] else ""
        source = await source_of(ragqueue, citation["document_id"])
        print(f"  [{citation['n']}] {source}{page} ({citation['start']}-{citation['end']}): {citation['quote']!r}")
    for hit in names.values():
        print(f"  nearest: {hit['source']}: {hit['text'][:160]!r}")


async def source_of(ragqueue: Any, document_id: str) -> str:
    """Return where a document came from."""
    from ragqueue.records import documents

    document = await ragqueue.runtime.records.read(documents.get, "default", document_id)
    return document.source if document else document_id


@click.command()
@click.argument("question")
@click.option("--collection", help="Only documents of this collection")
@click.option("--limit", type=click.IntRange(1, 100), default=5, show_default=True, help="Passages to show")
@data_option
@json_option
def search(question: str, collection: str | None, limit: int, data: str | None, as_json: bool) -> None:
    """Show the passages nearest to a question."""
    prepare({"data": data}, quiet=True)
    run(lambda: _search(question, collection, limit, data, as_json))


async def _search(question: str, collection: str | None, limit: int, data: str | None, as_json: bool) -> None:
    from ragqueue.embedded import Ragqueue
    from ragqueue.retrieval.base import hit_view

    async with Ragqueue(settings={"data": data}) as ragqueue:
        hits = await ragqueue.search(question, collection=collection, limit=limit)
    if as_json:
        print_json({"hits": [hit_view(hit) for hit in hits]})
        return
    for n, hit in enumerate(hits, 1):
        where = " > ".join((hit.chunk.title, *hit.chunk.heading_path))
        print(f"{n}. {hit.score:.3f}  {hit.chunk.source}  {where}\n   {' '.join(hit.chunk.text.split())[:300]}")

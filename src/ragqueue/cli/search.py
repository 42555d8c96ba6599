"""Show the passages nearest to a question."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ragqueue.cli import options
from ragqueue.cli.call import Call
from ragqueue.cli.command import Command

if TYPE_CHECKING:
    from ragqueue.types import Hit

TEXT_SHOWN = 300  # characters of a hit


@click.command("search", cls=Command)
@click.argument("question")
@options.collection
@click.option(
    "--limit",
    type=click.IntRange(1, 100),
    default=5,
    show_default=True,
    help="Passages to show",
)
@options.data
@options.json
def search(
    question: str, collection: str | None, limit: int, data: str | None, as_json: bool
) -> None:
    """Show the passages nearest to a question."""
    from ragqueue.retrieval.views import hit_view

    call = Call({"data": data}, as_json=as_json)
    hits = asyncio.run(_search(call, question, collection, limit))
    if call.as_json:
        call.show({"hits": [hit_view(hit) for hit in hits]})
    else:
        _print_hits(hits)


async def _search(call: Call, question: str, collection: str | None, limit: int) -> "list[Hit]":
    from ragqueue.embedded import Ragqueue

    async with Ragqueue(settings=call.flags) as ragqueue:
        return await ragqueue.search(question, collection=collection, limit=limit)


def _print_hits(hits: "Sequence[Hit]") -> None:
    for n, hit in enumerate(hits, 1):
        place = " > ".join((hit.chunk.title, *hit.chunk.heading_path))
        text = " ".join(hit.chunk.text.split())[:TEXT_SHOWN]
        print(f"{n}. {hit.score:.3f}  {hit.chunk.source}  {place}\n   {text}")

"""Ask a question, and show the answer with what it stands on."""

import asyncio
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from ragqueue.cli import options
from ragqueue.cli.call import Call, opened
from ragqueue.cli.command import Command
from ragqueue.errors import NotFound

if TYPE_CHECKING:
    from ragqueue.embedded import Ragqueue

PASSAGE_SHOWN = 160  # characters of a passage that is near
SAYS_SO_ITSELF = ("grounded", "abstained")


@click.command("ask", cls=Command)
@click.argument("question")
@options.collection
@click.option(
    "--limit",
    type=click.IntRange(1, 50),
    help="Most passages that the answer is written from",
)
@options.data
@options.json
def ask(
    question: str, collection: str | None, limit: int | None, data: str | None, as_json: bool
) -> None:
    """Ask a question and stream the answer with its citations."""
    call = Call({"data": data}, as_json=as_json)
    asyncio.run(_ask(call, question, collection, limit))


async def _ask(call: Call, question: str, collection: str | None, limit: int | None) -> None:
    async with opened(call) as ragqueue:
        if not call.as_json:
            await print_answer(ragqueue, question, collection, limit)
            return
        answer = await ragqueue.ask(question, collection=collection, limit=limit)
        call.show(answer.view)


async def print_answer(
    ragqueue: "Ragqueue", question: str, collection: str | None = None, limit: int | None = None
) -> None:
    """Stream an answer to standard output, then its citations; exit with what went wrong."""
    view = await _print_text(ragqueue, question, collection, limit)
    error = view["error"]
    if error:
        sys.exit(f"{view['status']}: {error['message']} [{error['code']}]")
    answer = view["answer"]
    if answer is None:  # it was cancelled before its first word
        sys.exit(f"the question is {view['status']}")
    for citation in answer["citations"]:
        print(await _citation_line(ragqueue, citation))
    _print_grounding(answer)


async def _print_text(
    ragqueue: "Ragqueue", question: str, collection: str | None, limit: int | None
) -> Mapping[str, Any]:
    """Stream the text of an answer, and return the view of its ended job."""
    from ragqueue.jobs.stream import DELTA, RESTARTED

    async for event in ragqueue.stream(question, collection=collection, limit=limit):
        if event.type == DELTA:
            print(event.data["delta"], end="", flush=True)
        elif event.type == RESTARTED:
            print("\n-- the answer begins anew --\n", end="", flush=True)
        last = event
    print()
    view: Mapping[str, Any] = last.data["response"]
    return view


async def _citation_line(ragqueue: "Ragqueue", citation: Mapping[str, Any]) -> str:
    try:
        document = await ragqueue.desk.document(citation["document_id"])
        place = document.source
    except NotFound:  # it was deleted meanwhile
        place = citation["document_id"]
    if citation["page"]:
        place += f", page {citation['page']}"
    span = f"{citation['start']}-{citation['end']}"
    return f"  [{citation['n']}] {place} ({span}): {citation['quote']!r}"


def _print_grounding(answer: Mapping[str, Any]) -> None:
    """Print how an answer is grounded, unless it says so itself, and what was near instead."""
    from ragqueue.answering.grounding import MEANINGS

    grounding = answer["grounding"]
    if grounding not in SAYS_SO_ITSELF:
        print(f"  {grounding}: {MEANINGS[grounding]}")
    nearest = {passage["document_id"]: passage for passage in answer.get("nearest", [])}
    for passage in nearest.values():
        print(f"  nearest: {passage['source']}: {passage['text'][:PASSAGE_SHOWN]!r}")

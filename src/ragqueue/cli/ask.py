"""Ask and search."""

import sys
from collections.abc import Mapping
from typing import Any

from ragqueue.answering.grounding import MEANINGS
from ragqueue.cli.call import Call, opened
from ragqueue.embedded import Ragqueue
from ragqueue.errors import NotFound
from ragqueue.jobs.stream import DELTA, RESTARTED
from ragqueue.retrieval.views import hit_view

SHOWN = 160  # characters of a passage that is near
SHOWN_HIT = 300  # characters of a hit
SAYS_SO_ITSELF = ("grounded", "abstained")


async def ask(call: Call, question: str, collection: str | None, limit: int | None) -> None:
    async with opened(call) as ragqueue:
        if not call.as_json:
            await print_answer(ragqueue, question, collection, limit)
            return
        answer = await ragqueue.ask(question, collection=collection, limit=limit)
        call.show(answer.view)


async def print_answer(
    ragqueue: Ragqueue, question: str, collection: str | None = None, limit: int | None = None
) -> None:
    """Stream an answer to standard output, then its citations; exit with what went wrong."""
    async for event in ragqueue.stream(question, collection=collection, limit=limit):
        if event.type == DELTA:
            print(event.data["delta"], end="", flush=True)
        elif event.type == RESTARTED:
            print("\n-- the answer begins anew --\n", end="", flush=True)
    view = event.data["response"]
    print()
    error = view["error"]
    if error:
        sys.exit(f"{view['status']}: {error['message']} [{error['code']}]")
    answer = view["answer"]
    if answer is None:  # it was cancelled before its first word
        sys.exit(f"the question is {view['status']}")
    for citation in answer["citations"]:
        print(await _citation_line(ragqueue, citation))
    grounding = answer["grounding"]
    if grounding not in SAYS_SO_ITSELF:
        print(f"  {grounding}: {MEANINGS[grounding]}")
    nearest = {source["document_id"]: source for source in answer.get("nearest", [])}
    for source in nearest.values():
        print(f"  nearest: {source['source']}: {source['text'][:SHOWN]!r}")


async def _citation_line(ragqueue: Ragqueue, citation: Mapping[str, Any]) -> str:
    try:
        document = await ragqueue.desk.document(citation["document_id"])
        place = document.source
    except NotFound:  # it was deleted meanwhile
        place = citation["document_id"]
    if citation["page"]:
        place += f", page {citation['page']}"
    span = f"{citation['start']}-{citation['end']}"
    return f"  [{citation['n']}] {place} ({span}): {citation['quote']!r}"


async def search(call: Call, question: str, collection: str | None, limit: int) -> None:
    async with Ragqueue(settings=call.flags) as ragqueue:
        hits = await ragqueue.search(question, collection=collection, limit=limit)
    if call.as_json:
        call.show({"hits": [hit_view(hit) for hit in hits]})
        return
    for n, hit in enumerate(hits, 1):
        where = " > ".join((hit.chunk.title, *hit.chunk.heading_path))
        text = " ".join(hit.chunk.text.split())[:SHOWN_HIT]
        print(f"{n}. {hit.score:.3f}  {hit.chunk.source}  {where}\n   {text}")

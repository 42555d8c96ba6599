"""Ask and search."""

import sys

from ragqueue.answering.grounding import MEANINGS
from ragqueue.cli.call import Call, opened
from ragqueue.embedded import Ragqueue
from ragqueue.jobs.views import DELTA, RESTARTED
from ragqueue.records import documents
from ragqueue.retrieval.fused import hit_view


async def ask(call: Call, question: str, collection: str | None, limit: int | None) -> None:
    async with opened(call) as ragqueue:
        if call.as_json:
            return call.show(
                (await ragqueue.ask(question, collection=collection, limit=limit)).view
            )
        await print_answer(ragqueue, question, collection, limit)


async def print_answer(
    ragqueue: Ragqueue, question: str, collection: str | None = None, limit: int | None = None
) -> None:
    """Stream an answer to standard output, then its citations."""
    async for event in ragqueue.stream(question, collection=collection, limit=limit):
        if event.type in (DELTA, RESTARTED):
            print(event.data.get("delta", "\n-- the answer begins anew --\n"), end="", flush=True)
    view = event.data["response"]
    print()
    if view["error"]:
        sys.exit(f"{view['status']}: {view['error']['message']} [{view['error']['code']}]")
    if view["answer"] is None:  # it was cancelled before its first word
        sys.exit(f"the question is {view['status']}")
    for citation in view["answer"]["citations"]:
        document = await ragqueue.runtime.records.read(
            documents.get, ragqueue.tenant, citation["document_id"]
        )
        source = document.source if document else citation["document_id"]
        page = f", page {citation['page']}" if citation["page"] else ""
        print(
            f"  [{citation['n']}] {source}{page} ({citation['start']}-{citation['end']}): {citation['quote']!r}"
        )
    if (word := view["answer"]["grounding"]) not in (
        "grounded",
        "abstained",
    ):  # an abstained answer says so itself
        print(f"  {word}: {MEANINGS[word]}")
    for hit in {hit["document_id"]: hit for hit in view["answer"].get("nearest", [])}.values():
        print(f"  nearest: {hit['source']}: {hit['text'][:160]!r}")


async def search(call: Call, question: str, collection: str | None, limit: int) -> None:
    async with Ragqueue(settings=call.flags) as ragqueue:
        hits = await ragqueue.search(question, collection=collection, limit=limit)
    if call.as_json:
        return call.show({"hits": [hit_view(hit) for hit in hits]})
    for n, hit in enumerate(hits, 1):
        where = " > ".join((hit.chunk.title, *hit.chunk.heading_path))
        print(
            f"{n}. {hit.score:.3f}  {hit.chunk.source}  {where}\n   {' '.join(hit.chunk.text.split())[:300]}"
        )

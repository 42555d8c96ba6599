"""`eval`: measure retrieval on a folder of judged questions, and check every quote of the answers."""

import asyncio
import re
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import click

from ragqueue.cli.command import JSON, Call, Command
from ragqueue.embedded import Ragqueue
from ragqueue.records import documents
from ragqueue.retrieval import evaluation
from ragqueue.types import Block, Parsed

_ANSWERED = 200  # questions that are answered, too, for their quotes
_CHUNKS = 100  # passages searched for: each document counts by its best
_PARAGRAPH = re.compile(r"\S(?:.*?\S)??(?=\s*?\n\s*?\n|\s*\Z)", re.DOTALL)


@click.command("eval", cls=Command, common=(JSON,))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
async def evaluate(call: Call, folder: Path) -> None:
    """Measure retrieval on corpus.jsonl, queries.jsonl and qrels.tsv; nothing of yours is touched."""
    judged = evaluation.read_folder(folder)
    with tempfile.TemporaryDirectory(prefix="ragqueue-eval-", ignore_cleanup_errors=True) as place:
        flags = {"data": f"{place}/data", "vector_db_path": f"{place}/vectors", "queue": "sql", "events": "sql", "llm_model": "extractive"}
        async with Ragqueue(settings=flags) as ragqueue:
            names = dict(await _each(judged.corpus, partial(_store, ragqueue), at_once=4))
            ranked, times = {}, []
            for question in judged.questions:
                began = time.perf_counter()
                hits = await ragqueue.search(question.text, limit=_CHUNKS)
                times.append((time.perf_counter() - began) * 1000)
                ranked[question.id] = evaluation.first_places(names[hit.chunk.document_id] for hit in hits)
            scores = evaluation.evaluate(ranked, judged.judgments)
            quotes = await _each(judged.questions[:_ANSWERED], partial(_quotes, ragqueue), at_once=8)
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else times * 99
    call.show({
        "queries": scores.questions, "ndcg@10": round(scores.ndcg, 4), "recall@10": round(scores.recall, 4), "mrr@10": round(scores.mrr, 4),
        "quotes": sum(count for count, _ in quotes), "quotes_wrong": sum(wrong for _, wrong in quotes),
        "search_ms_p50": round(cuts[49], 2), "search_ms_p99": round(cuts[98], 2),
    }, ("figure", "value"))  # fmt: skip


async def _each(items: Iterable[Any], act: Callable[[Any], Awaitable[Any]], *, at_once: int) -> list[Any]:
    gate = asyncio.Semaphore(at_once)

    async def one(item: Any) -> Any:
        async with gate:
            return await act(item)

    return await asyncio.gather(*map(one, items))


async def _store(ragqueue: Ragqueue, text: evaluation.Text) -> tuple[str, str]:
    """Store a document of the set; return (its id here, its id in the set)."""
    parsed = Parsed(text.text, [Block("paragraph", *match.span()) for match in _PARAGRAPH.finditer(text.text)], text.title or " ")
    document = await ragqueue.runtime.ingester.store("default", parsed, source=text.id, collection="default", media_type="text/plain")
    return document.id, text.id


async def _quotes(ragqueue: Ragqueue, question: evaluation.Text) -> tuple[int, int]:
    """Return how many quotes an answer holds, and how many do not stand in their documents."""
    answer = await ragqueue.ask(question.text)
    wrong = 0
    for citation in answer.citations:
        found = await ragqueue.runtime.records.read(documents.text_of, "default", citation.document_id, citation.version)
        wrong += found is None or found[0][citation.start : citation.end] != citation.quote
    return len(answer.citations), wrong

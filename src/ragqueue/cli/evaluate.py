"""`eval`: measure retrieval on a folder of judged questions, and check every quote of the answers."""

import asyncio
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ragqueue.cli.output import json_option, prepare, print_json, print_table, run

_ANSWERED = 200  # questions that are answered, too, for their quotes
_CHUNKS = 100  # passages searched for: each document counts by its best
_PARAGRAPH = re.compile(r"\S(?:.*?\S)??(?=\s*?\n\s*?\n|\s*\Z)", re.DOTALL)


@click.command("eval")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
def evaluate(folder: Path, as_json: bool) -> None:
    """Measure retrieval on corpus.jsonl, queries.jsonl and qrels.tsv; nothing of yours is touched."""
    with tempfile.TemporaryDirectory(prefix="ragqueue-eval-", ignore_cleanup_errors=True) as place:
        flags = {"data": f"{place}/data", "vector_db_path": f"{place}/vectors", "queue": "sql", "events": "sql", "llm_model": "extractive"}
        prepare(flags, quiet=True)
        run(lambda: _evaluate(folder, flags, as_json))


async def _evaluate(folder: Path, flags: dict[str, str], as_json: bool) -> None:
    from ragqueue.embedded import Ragqueue
    from ragqueue.retrieval import evaluation

    judged = evaluation.read_folder(folder)
    async with Ragqueue(settings=flags) as ragqueue:
        names = await _fill(ragqueue, judged.corpus)
        ranked, times = {}, []
        for question in judged.questions:
            began = time.perf_counter()
            hits = await ragqueue.search(question.text, limit=_CHUNKS)
            times.append((time.perf_counter() - began) * 1000)
            ranked[question.id] = evaluation.first_places(names[hit.chunk.document_id] for hit in hits)
        scores = evaluation.evaluate(ranked, judged.judgments)
        quotes, wrong = await _check_quotes(ragqueue, [question.text for question in judged.questions[:_ANSWERED]])
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else times * 99
    found = {
        "queries": scores.questions, "ndcg@10": round(scores.ndcg, 4), "recall@10": round(scores.recall, 4), "mrr@10": round(scores.mrr, 4),
        "quotes": quotes, "quotes_wrong": wrong, "search_ms_p50": round(cuts[49], 2), "search_ms_p99": round(cuts[98], 2),
    }  # fmt: skip
    print_json(found) if as_json else print_table(("figure", "value"), list(found.items()))


async def _fill(ragqueue: Any, corpus: Sequence[Any]) -> dict[str, str]:
    """Store the corpus and return {document id of ours: id in the set}."""
    from ragqueue.types import Block, Parsed

    gate = asyncio.Semaphore(4)

    async def add(text: Any) -> tuple[str, str]:
        async with gate:
            blocks = [Block("paragraph", *match.span()) for match in _PARAGRAPH.finditer(text.text)]
            parsed = Parsed(text.text, blocks, text.title or " ")
            document = await ragqueue.runtime.ingester.store(
                "default", parsed, source=text.id, collection="default", media_type="text/plain"
            )
            return document.id, text.id

    return dict(await asyncio.gather(*(add(text) for text in corpus)))


async def _check_quotes(ragqueue: Any, questions: Sequence[str]) -> tuple[int, int]:
    """Return how many quotes the answers hold, and how many do not stand in their documents."""
    from ragqueue.records import documents

    gate = asyncio.Semaphore(8)

    async def check(question: str) -> tuple[int, int]:
        async with gate:
            answer = await ragqueue.ask(question)
        wrong = 0
        for citation in answer.citations:
            found = await ragqueue.runtime.records.read(documents.text_of, "default", citation.document_id, citation.version)
            wrong += found is None or found[0][citation.start : citation.end] != citation.quote
        return len(answer.citations), wrong

    checked = await asyncio.gather(*(check(question) for question in questions))
    return sum(count for count, _ in checked), sum(wrong for _, wrong in checked)

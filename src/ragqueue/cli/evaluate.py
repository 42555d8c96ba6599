"""Measure retrieval and quotes on judged questions."""

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ragqueue.cli import options
from ragqueue.cli.call import Call
from ragqueue.cli.command import Command

if TYPE_CHECKING:
    from ragqueue.embedded import Ragqueue
    from ragqueue.retrieval.evaluation import Text
    from ragqueue.types import Citation

PASSAGES = 100  # that are searched: each document counts by its best
ASKED = 200  # questions that are answered, for their quotes


@click.command("eval", cls=Command)
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@options.json
def evaluate(folder: str, as_json: bool) -> None:
    """Measure retrieval on judged questions. Reads corpus.jsonl, queries.jsonl and qrels.tsv."""
    call = Call({}, as_json=as_json)
    scores = asyncio.run(measure(Path(folder)))
    call.show(scores)


async def measure(folder: Path) -> Mapping[str, Any]:
    """Return the scores of retrieval, the quotes of the answers, and the times in ms.

    Raises InvalidRequest for a folder that is no set.
    """
    import numpy as np

    from ragqueue.embedded import Ragqueue
    from ragqueue.retrieval import evaluation

    corpus, questions, judgments = evaluation.read_folder(folder)
    with tempfile.TemporaryDirectory(prefix="ragqueue-eval-", ignore_cleanup_errors=True) as place:
        async with Ragqueue(settings=_flags(place)) as ragqueue:
            await _bring(ragqueue, corpus)
            ranked, times = await _search(ragqueue, corpus, questions)
            quotes = await _quotes(ragqueue, questions[:ASKED])
            wrong = [quote for quote in quotes if not await _stands(ragqueue, quote)]
    p50, p99 = np.percentile(times, (50, 99)).round(2).tolist()
    scores = evaluation.evaluate(ranked, judgments)
    return {
        **scores,
        "quotes": len(quotes),
        "quotes_wrong": len(wrong),
        "search_ms_p50": p50,
        "search_ms_p99": p99,
    }


def _flags(folder: str) -> dict[str, Any]:
    """Return settings of a system that lives in one folder."""
    return {
        "data": f"{folder}/data",
        "vector_db_path": f"{folder}/vectors",
        "queue": "sql",
        "events": "sql",
        "llm_model": "extractive",
    }


async def _bring(ragqueue: "Ragqueue", corpus: "Sequence[Text]") -> None:
    """Store every text; its number in the corpus begins its source."""

    async def store(number: int, text: "Text") -> None:
        # The title of a plain text is the last part of its source.
        source = f"{number}/{text.title.replace('/', ' ')}"
        await ragqueue.store(source, text.text.encode(), media_type="text/plain")

    await asyncio.gather(*(store(number, text) for number, text in enumerate(corpus)))


async def _search(
    ragqueue: "Ragqueue", corpus: "Sequence[Text]", questions: "Sequence[Text]"
) -> tuple[dict[str, list[str]], list[float]]:
    """Return {question id: ids of its texts, best first}, and the times in ms."""
    ranked: dict[str, list[str]] = {}
    times = []
    for question in questions:
        began = time.perf_counter()
        hits = await ragqueue.search(question.text, limit=PASSAGES)
        times.append((time.perf_counter() - began) * 1000)
        numbers = [int(hit.chunk.source.partition("/")[0]) for hit in hits]
        ranked[question.id] = [corpus[number].id for number in numbers]
    return ranked, times


async def _quotes(ragqueue: "Ragqueue", questions: "Sequence[Text]") -> "list[Citation]":
    """Return the citations of the answers to all questions."""
    answers = await asyncio.gather(*(ragqueue.ask(question.text) for question in questions))
    quotes: list[Citation] = []
    for answer in answers:
        quotes += answer.citations
    return quotes


async def _stands(ragqueue: "Ragqueue", quote: "Citation") -> bool:
    """Say whether a quote stands in the stored text, at its offsets."""
    document = await ragqueue.desk.document(quote.document_id)
    text, _ = await ragqueue.desk.text(document, quote.version)
    return text[quote.start : quote.end] == quote.quote

"""Measure retrieval and quotes on judged questions."""

import asyncio
import tempfile
import time
from pathlib import Path

import numpy as np

from ragqueue.cli.call import Call
from ragqueue.embedded import Ragqueue
from ragqueue.records import documents
from ragqueue.retrieval import evaluation


async def evaluate(call: Call, folder: str) -> None:
    """Measure retrieval, and check every quote of the answers."""
    corpus, questions, judgments = evaluation.read_folder(Path(folder))
    with tempfile.TemporaryDirectory(prefix="ragqueue-eval-", ignore_cleanup_errors=True) as place:
        flags = {
            "data": f"{place}/data",
            "vector_db_path": f"{place}/vectors",
            "queue": "sql",
            "events": "sql",
            "llm_model": "extractive",
        }
        async with Ragqueue(settings=flags) as ragqueue:
            # The title of a plain text is the last part of its source.
            files = (
                (f"{number}/{text.title.replace('/', ' ')}", text.text.encode())
                for number, text in enumerate(corpus)
            )
            await asyncio.gather(
                *(ragqueue.store(source, data, media_type="text/plain") for source, data in files)
            )
            ranked, times = {}, []
            for question in questions:
                began = time.perf_counter()
                hits = await ragqueue.search(
                    question.text, limit=100
                )  # passages: each document counts by its best
                times.append((time.perf_counter() - began) * 1000)
                ranked[question.id] = [
                    corpus[int(hit.chunk.source.partition("/")[0])].id for hit in hits
                ]
            scores = evaluation.evaluate(ranked, judgments)
            answers = await asyncio.gather(
                *(ragqueue.ask(question.text) for question in questions[:200])
            )  # for their quotes
            quotes, wrong = [citation for answer in answers for citation in answer.citations], 0
            for quote in quotes:
                found = await ragqueue.runtime.records.read(
                    documents.text_of, "default", quote.document_id, quote.version
                )
                wrong += found is None or found[0][quote.start : quote.end] != quote.quote
    p50, p99 = np.percentile(times, (50, 99)).round(2).tolist()
    call.show(
        scores
        | {"quotes": len(quotes), "quotes_wrong": wrong, "search_ms_p50": p50, "search_ms_p99": p99}
    )

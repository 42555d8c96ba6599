"""`bench search`: hybrid search over 100,000 passages, beside FAISS alone.

Passages are spliced from the samples' own; their vectors are real ones mixed, with noise. Only the
questions are embedded.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection

from campaigns.house import SAMPLES, machine, quantile, scratch
from ragqueue.embedded import Ragqueue
from ragqueue.embedders.minilm import MiniLMEmbedder
from ragqueue.indexes.faiss import FaissIndex
from ragqueue.ingestion.chunks import chunk
from ragqueue.ingestion.reading import indexed_text, row_of
from ragqueue.parsers.markdown import MarkdownParser
from ragqueue.records import chunks, documents, readings, uploads
from ragqueue.types import Parsed, Passage, Reading, Space

PASSAGES = 100_000
A_DOCUMENT = 100  # passages
NOISE = 0.03  # standard deviation of each dimension
QUESTIONS = 300
RAW_QUESTIONS = 100
WARMING_UP = 20  # searches that are not timed
SPACE = Space(tenant="default", collection="default", generation=MiniLMEmbedder.name)
GAP = "\n\n"  # between the passages of a document


def main(argv: list[str]) -> None:
    """Measure what the command line says and print the figures."""
    parser = argparse.ArgumentParser(prog="bench search")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--passages", type=int, default=PASSAGES)
    options = parser.parse_args(argv)
    with scratch() as folder:
        report = asyncio.run(measure(folder, options.passages))
    print(json.dumps(report | machine()))


async def measure(folder: Path, count: int) -> dict[str, Any]:
    """Measure searches over so many passages and return what `--json` prints."""
    settings = {
        "data": folder / "data",
        "vector_db_path": folder / "vectors",
        "queue": "sql",
        "llm_model": "extractive",
    }
    async with Ragqueue(settings=settings) as ragqueue:
        began = time.monotonic()
        passages = await fill(ragqueue, count)
        index = ragqueue.runtime.index
        assert isinstance(index, FaissIndex)
        await index.compact(SPACE)
        print(f"{count} passages in {time.monotonic() - began:.0f} s", file=sys.stderr)
        asked = (passages * 10)[:QUESTIONS]
        questions = [question_of(passage.text, seed) for seed, passage in enumerate(asked)]
        hybrid, cpu_ms = await timed(ragqueue, questions)
        raw = await raw_search(index, questions[:RAW_QUESTIONS])
    return {
        "passages": count,
        "hybrid_p50_ms": round(quantile(hybrid, 0.5), 2),
        "hybrid_p99_ms": round(quantile(hybrid, 0.99), 2),
        "hybrid_cpu_ms": round(cpu_ms, 2),
        "raw_faiss_p50_ms": round(quantile(raw, 0.5), 2),
        "questions": len(questions),
    }


def read(path: Path) -> Parsed:
    """Parse a sample."""
    return MarkdownParser().parse(path.read_bytes(), path.name)


async def fill(ragqueue: Ragqueue, count: int) -> list[Passage]:
    """Store documents of `count` spliced passages; return the samples' own, which they are of."""
    passages: list[Passage] = []
    texts: list[str] = []
    for document in [read(path) for path in sorted(SAMPLES.glob("*.md"))]:
        for passage in chunk(document):
            passages.append(passage)
            texts.append(indexed_text(document.title, passage))
    vectors = await MiniLMEmbedder().embed(texts)
    await splice(ragqueue, passages, vectors, count)
    return passages


async def splice(ragqueue: Ragqueue, passages: Sequence[Passage], vectors: Any, count: int) -> None:
    """Store documents whose passages are halves of two, with a vector between the two."""
    generator = np.random.default_rng(1)
    for number in range(count // A_DOCUMENT):
        pairs = generator.integers(0, len(passages), (A_DOCUMENT, 2))
        noise = generator.normal(0, NOISE, (A_DOCUMENT, vectors.shape[1]))
        mixed = vectors[pairs[:, 0]] + vectors[pairs[:, 1]] + noise
        mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
        texts = [
            first_half(passages[left].text) + " " + second_half(passages[right].text)
            for left, right in pairs
        ]
        await ragqueue.runtime.records.note(store, f"{number}.txt", texts, mixed.astype("<f2"))


def first_half(text: str) -> str:
    """Return the first half of the words."""
    words = text.split()
    return " ".join(words[: len(words) // 2])


def second_half(text: str) -> str:
    """Return the second half of the words."""
    words = text.split()
    return " ".join(words[len(words) // 2 :])


def store(connection: Connection, source: str, texts: Sequence[str], vectors: Any) -> None:
    """Store one document of these passages, as an ingestion would."""
    uploads.begin(connection, "default", source, b"")
    documents.add_upload(
        connection,
        tenant="default",
        collection="default",
        source=source,
        media_type="text/plain",
        document_id=source,
        upload_id=source,
        generation=MiniLMEmbedder.name,
    )
    document = documents.get(connection, "default", source)
    assert document is not None
    rows = []
    start = 0
    for text, vector in zip(texts, vectors, strict=True):
        end = start + len(text)
        passage = Passage(text=text, start=start, end=end)
        rows.append((row_of(passage, text, "en"), vector.tobytes()))
        start = end + len(GAP)
    reading = Reading(
        text=GAP.join(texts),
        blocks=[],
        title=source,
        pages=None,
        language="en",
        rows=[row for row, _ in rows],
    )
    documents.add_version(
        connection,
        document,
        reading,
        blocks="[]",
        upload_id=source,
        sha256=source,
        media_type="text/plain",
    )
    readings.begin(connection, "default", source, 1)
    chunks.insert(connection, SPACE, source, 1, "en", rows)
    readings.show(connection, "default", source, 1)


def question_of(text: str, seed: int) -> str:
    """Make a question of words of a passage."""
    words = [word for word in text.split() if word.isalpha() and len(word) > 3]
    if not words:
        words = ["query", "parameter"]
    chooser = random.Random(seed)
    chosen = [chooser.choice(words) for _ in range(6)]
    return f"How do I {' '.join(chosen)}?"


async def timed(ragqueue: Ragqueue, questions: Sequence[str]) -> tuple[list[float], float]:
    """Return ms of each search, one at a time, and the mean CPU ms."""
    for question in questions[:WARMING_UP]:
        await ragqueue.search(question + " really")
    times = []
    cpu = time.process_time()
    for question in questions:
        began = time.perf_counter()
        await ragqueue.search(question)
        times.append((time.perf_counter() - began) * 1000)
    cpu_ms = (time.process_time() - cpu) * 1000
    return times, cpu_ms / len(questions)


async def raw_search(index: FaissIndex, questions: Sequence[str]) -> list[float]:
    """Return ms of FAISS's own search in the same vectors."""
    view = next(iter(index._replicas.values())).view
    assert view is not None
    largest = max(view.indexes, key=lambda part: part.ntotal)
    times = []
    for vector in await MiniLMEmbedder().embed(questions):
        began = time.perf_counter()
        largest.search(vector[None, :], 100)
        times.append((time.perf_counter() - began) * 1000)
    return times


if __name__ == "__main__":
    main(sys.argv[1:])

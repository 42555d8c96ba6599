"""`bench search`: hybrid search over 100,000 passages, beside FAISS alone.

Passages are spliced from the samples' own; their vectors are real ones mixed, with noise. Only the questions are embedded.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection

from campaigns.house import SAMPLES, machine, quantile
from ragqueue.embedded import Ragqueue
from ragqueue.embedders.minilm import MiniLMEmbedder
from ragqueue.indexes.faiss import FaissIndex
from ragqueue.ingestion.chunks import chunk
from ragqueue.ingestion.ingest import indexed_text
from ragqueue.parsers.markdown import MarkdownParser
from ragqueue.records import chunks, documents
from ragqueue.types import Parsed, Passage, Space

PASSAGES = 100_000
A_DOCUMENT = 100  # passages
NOISE = 0.03  # standard deviation of each dimension
QUESTIONS = 300
SPACE = Space("default", "default", MiniLMEmbedder.name)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench search")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--passages", type=int, default=PASSAGES)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(
        prefix="ragqueue-bench-", ignore_cleanup_errors=True
    ) as folder:
        print(json.dumps(asyncio.run(measure(Path(folder), options.passages)) | machine()))


async def measure(folder: Path, count: int) -> dict[str, float]:
    flags = {
        "data": folder / "data",
        "vector_db_path": folder / "vectors",
        "queue": "sql",
        "llm_model": "extractive",
    }
    async with Ragqueue(settings=flags) as ragqueue:
        began = time.monotonic()
        passages = [
            (parsed.title, passage)
            for parsed in map(read, sorted(SAMPLES.glob("*.md")))
            for passage in chunk(parsed)
        ]
        vectors = await MiniLMEmbedder().embed(
            [indexed_text(title, passage) for title, passage in passages]
        )
        await fill(ragqueue, [passage for _, passage in passages], vectors, count)
        index = ragqueue.runtime.index
        assert isinstance(index, FaissIndex)
        await index.compact(SPACE)
        print(f"{count} passages in {time.monotonic() - began:.0f} s", file=sys.stderr)
        questions = [
            question_of(passage.text, seed)
            for seed, (_, passage) in zip(range(QUESTIONS), passages * 10, strict=False)
        ]
        hybrid, cpu = await timed(ragqueue, questions)
        raw = await raw_search(index, questions[:100])
    return {
        "passages": count,
        "hybrid_p50_ms": round(quantile(hybrid, 0.5), 2),
        "hybrid_p99_ms": round(quantile(hybrid, 0.99), 2),
        "hybrid_cpu_ms": round(cpu, 2),
        "raw_faiss_p50_ms": round(quantile(raw, 0.5), 2),
        "questions": len(questions),
    }


def read(path: Path) -> Parsed:
    return MarkdownParser().parse(path.read_bytes(), path.name)


async def fill(ragqueue: Ragqueue, passages: Sequence[Passage], vectors: Any, count: int) -> None:
    """Store documents of spliced passages."""
    random_ = np.random.default_rng(1)
    for number in range(count // A_DOCUMENT):
        pairs = random_.integers(0, len(passages), (A_DOCUMENT, 2))
        texts = [
            f"{half(passages[a].text, first=True)} {half(passages[b].text, first=False)}"
            for a, b in pairs
        ]
        mixed = (
            vectors[pairs[:, 0]]
            + vectors[pairs[:, 1]]
            + random_.normal(0, NOISE, (A_DOCUMENT, vectors.shape[1]))
        )
        mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
        await ragqueue.runtime.records.note(store, f"{number}.txt", texts, mixed.astype("<f2"))


def half(text: str, *, first: bool) -> str:
    words = text.split()
    return " ".join(words[: len(words) // 2] if first else words[len(words) // 2 :])


def store(connection: Connection, source: str, texts: Sequence[str], vectors: Any) -> None:
    upload = {
        "tenant": "default",
        "collection": "default",
        "source": source,
        "media_type": "text/plain",
        "data": b"",
    }
    documents.add_upload(
        connection, **upload, document_id=source, upload_id=source, generation=MiniLMEmbedder.name
    )
    document = documents.get(connection, "default", source)
    assert document is not None
    about = {
        "title": source,
        "sha256": source,
        "language": "en",
        "chunks": len(texts),
        "media_type": "text/plain",
        "upload_id": source,
    }
    documents.add_version(connection, document, Parsed("\n\n".join(texts), []), **about)
    rows, at = [], 0
    for text, vector in zip(texts, vectors, strict=True):
        rows.append((Passage(text, at, at + len(text)), text, vector.tobytes()))
        at += len(text) + 2
    chunks.insert(connection, SPACE, source, 1, "en", rows)


def question_of(text: str, seed: int) -> str:
    """Make a question of words of a passage."""
    words = [word for word in text.split() if word.isalpha() and len(word) > 3] or [
        "query",
        "parameter",
    ]
    chosen = random.Random(seed)
    return "How do I " + " ".join(chosen.choice(words) for _ in range(6)) + "?"


async def timed(ragqueue: Ragqueue, questions: Sequence[str]) -> tuple[list[float], float]:
    """Return ms of each search, one at a time, and the mean CPU ms."""
    for question in questions[:20]:
        await ragqueue.search(question + " really")
    times = []
    cpu = time.process_time()
    for question in questions:
        began = time.perf_counter()
        await ragqueue.search(question)
        times.append((time.perf_counter() - began) * 1000)
    return times, (time.process_time() - cpu) / len(questions) * 1000


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

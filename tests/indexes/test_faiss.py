"""The FAISS replica: the contract, and what a replica of the records must survive."""

import random
from pathlib import Path

import numpy as np
import pytest

from ragqueue.indexes import snapshots
from ragqueue.indexes.base import Index
from ragqueue.indexes.faiss import FaissIndex
from ragqueue.records.vectors import Added
from ragqueue.testing.contracts.indexes import DIMENSIONS, HERE, IndexContract, vectors


class MemoryFeed:
    """Records in miniature."""

    def __init__(self) -> None:
        self.vectors: dict[int, np.ndarray] = {}  # type: ignore[type-arg]
        self.gone: list[tuple[int, int]] = []

    def put(self, first: int, count: int, seed: int = 0) -> None:
        self.vectors |= dict(zip(range(first, first + count), vectors(count, seed=seed).astype(np.float16), strict=True))

    def drop(self, number: int) -> None:
        del self.vectors[number]
        self.gone.append((len(self.gone) + 1, number))

    async def added(self, tenant: str, collection: str, generation: str, after: int, limit: int) -> Added:
        here = (tenant, collection, generation) == (HERE.tenant, HERE.collection, HERE.generation)
        numbers = sorted(number for number in self.vectors if number > after)[:limit] if here else []
        found = np.stack([self.vectors[number] for number in numbers]) if numbers else np.empty((0, DIMENSIONS), np.float16)
        return Added(np.array(numbers, np.int64), found)

    async def removed(self, tenant: str, collection: str, generation: str, after: int) -> list[tuple[int, int]]:
        return [pair for pair in self.gone if pair[0] > after]

    async def last_removal(self, tenant: str, collection: str, generation: str) -> int:
        return len(self.gone)


@pytest.fixture
def feed() -> MemoryFeed:
    return MemoryFeed()


async def nearest(index: Index, feed: MemoryFeed, number: int) -> int:
    return (await index.search(HERE, feed.vectors[number].astype(np.float32), 1))[0][0]


def snapshot_in(folder: Path) -> Path:
    return next(folder.rglob("*.faiss"))


class TestFaissIndex(IndexContract):
    @pytest.fixture
    async def index(self, tmp_path: Path) -> Index:
        return FaissIndex(tmp_path / "向量", MemoryFeed())


async def test_a_replica_is_filled_from_the_records(tmp_path: Path, feed: MemoryFeed) -> None:
    feed.put(1, 300)

    assert await nearest(FaissIndex(tmp_path, feed), feed, 123) == 123


async def test_another_process_begins_from_the_snapshot_and_follows(tmp_path: Path, feed: MemoryFeed) -> None:
    feed.put(1, 300)
    await FaissIndex(tmp_path, feed).compact(HERE)
    feed.put(301, 20, seed=1)
    feed.drop(7)
    gone = feed.vectors[8]

    index = FaissIndex(tmp_path, feed)

    assert await nearest(index, feed, 310) == 310
    assert await index.count(HERE) == 319
    assert 7 not in [number for number, _ in await index.search(HERE, gone.astype(np.float32), 319)]


async def test_every_flipped_bit_of_a_snapshot_is_noticed(tmp_path: Path, feed: MemoryFeed) -> None:
    feed.put(1, 50)
    await FaissIndex(tmp_path, feed).compact(HERE)
    path = snapshot_in(tmp_path)
    good = path.read_bytes()

    for place in random.Random(1).sample(range(len(good) * 8), 100):
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        path.write_bytes(bad)
        assert snapshots.load(path.parent) is None
    assert await nearest(FaissIndex(tmp_path, feed), feed, 20) == 20


async def test_a_crash_at_any_byte_of_the_writing_leaves_the_old_snapshot(tmp_path: Path, feed: MemoryFeed) -> None:
    feed.put(1, 50)
    await FaissIndex(tmp_path, feed).compact(HERE)
    path = snapshot_in(tmp_path)
    good = path.read_bytes()

    for length in random.Random(2).sample(range(len(good)), 50):
        path.with_name("1.partial").write_bytes(good[:length])
        path.with_name(f"99-0-{'0' * 64}.faiss").write_bytes(good[:length])
        loaded = snapshots.load(path.parent)
        assert loaded is not None
        assert loaded.last_number == 50


async def test_an_erasing_compaction_takes_removed_vectors_off_the_disk(tmp_path: Path, feed: MemoryFeed) -> None:
    feed.put(1, 50)
    index = FaissIndex(tmp_path, feed)
    await index.compact(HERE)
    secret = feed.vectors[30].tobytes()
    assert secret in snapshot_in(tmp_path).read_bytes()
    feed.drop(30)

    await index.compact(HERE, erase=True)

    assert all(secret not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert await index.count(HERE) == 49


async def test_erasing_the_last_vector_leaves_no_snapshot(tmp_path: Path, feed: MemoryFeed) -> None:
    feed.put(1, 1)
    index = FaissIndex(tmp_path, feed)
    await index.compact(HERE)
    feed.drop(1)

    await index.compact(HERE, erase=True)

    assert list(tmp_path.rglob("*.faiss")) == []
    assert await index.count(HERE) == 0

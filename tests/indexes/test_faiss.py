"""The FAISS replica: the contract, and what a replica of the records must survive."""

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ragqueue.errors import ConfigError
from ragqueue.indexes import faiss, faiss_view
from ragqueue.indexes.base import Index
from ragqueue.indexes.faiss import FaissIndex
from ragqueue.records import chunks
from ragqueue.records.chunks import News
from ragqueue.testing.contracts.vectors import DIMENSIONS, HERE, Another, IndexContract, vectors
from ragqueue.types import Space
from tests.library import add, open_records


class MemoryFeed:
    """Records in miniature."""

    def __init__(self) -> None:
        self.vectors: dict[int, np.ndarray] = {}  # type: ignore[type-arg]
        self.gone: list[tuple[int, int]] = []

    def put(self, first: int, count: int, seed: int = 0) -> None:
        numbers = range(first, first + count)
        halves = vectors(count, seed=seed).astype(np.float16)
        self.vectors |= dict(zip(numbers, halves, strict=True))

    def drop(self, number: int) -> None:
        del self.vectors[number]
        self.gone.append((len(self.gone) + 1, number))

    async def read(self, look: Callable[..., Any], *args: Any) -> Any:
        return await getattr(self, look.__name__)(*args)

    async def news(self, space: Sequence[str], after: int, removal: int, limit: int) -> News:
        numbers: list[int] = []
        if space == HERE:
            numbers = sorted(number for number in self.vectors if number > after)[:limit]
        found = np.empty((0, DIMENSIONS), np.float16)
        if numbers:
            found = np.stack([self.vectors[number] for number in numbers])
        gone = [number for seq, number in self.gone if seq > removal]
        return News(np.array(numbers, np.int64), found, np.array(gone, np.int64), len(self.gone))

    async def living(self, space: Sequence[str]) -> tuple[np.ndarray, int]:  # type: ignore[type-arg]
        return np.array(sorted(self.vectors) if space == HERE else [], np.int64), len(self.gone)


class SlowFeed(MemoryFeed):
    """Stops a compaction after it has read everything."""

    def __init__(self) -> None:
        super().__init__()
        self.has_read, self.go_on = asyncio.Event(), asyncio.Event()
        self.slow = False

    async def news(self, space: Sequence[str], after: int, removal: int, limit: int) -> News:
        news = await super().news(space, after, removal, limit)
        if self.slow and not len(news.numbers):
            self.has_read.set()
            await asyncio.wait_for(self.go_on.wait(), 5)
        return news


class Recorded(FaissIndex):
    """Writes the records before the index, as the port's callers do."""

    def __init__(self, folder: Path, feed: MemoryFeed) -> None:
        super().__init__(folder, feed)
        self.records = feed

    async def upsert(self, space: Space, numbers: Sequence[int], vectors: np.ndarray) -> None:  # type: ignore[type-arg]
        self.records.vectors |= dict(zip(numbers, vectors.astype(np.float16), strict=True))
        await super().upsert(space, numbers, vectors)

    async def delete(self, space: Space, numbers: Sequence[int]) -> None:
        held = set(self.records.vectors) if space == HERE else set()
        for number in set(numbers) & held:
            self.records.drop(number)
        await super().delete(space, numbers)


@pytest.fixture
def feed() -> MemoryFeed:
    return MemoryFeed()


async def nearest(index: Index, feed: MemoryFeed, number: int) -> int:
    return (await index.search(HERE, feed.vectors[number].astype(np.float32), 1))[0][0]


def snapshots_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.faiss"), key=lambda path: path.name)


def is_anywhere(folder: Path, secret: bytes) -> bool:
    return any(secret in path.read_bytes() for path in folder.rglob("*") if path.is_file())


class TestFaissIndex(IndexContract):
    @pytest.fixture
    async def index(self, tmp_path: Path, feed: MemoryFeed) -> Index:
        return Recorded(tmp_path / "向量", feed)

    @pytest.fixture
    def another(self, tmp_path: Path, feed: MemoryFeed) -> Another:
        return lambda: Recorded(tmp_path / "向量", feed)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path


class TestFaissIndexThatFollows(IndexContract):
    """The same where the space is in memory before anything is written."""

    @pytest.fixture
    async def index(
        self, tmp_path: Path, feed: MemoryFeed, monkeypatch: pytest.MonkeyPatch
    ) -> Index:
        index = Recorded(tmp_path, feed)
        monkeypatch.setattr(faiss, "LOOK_EVERY", 3600)  # only what the port was told can show
        await index.count(HERE)
        return index

    @pytest.fixture
    def another(self, tmp_path: Path, feed: MemoryFeed, monkeypatch: pytest.MonkeyPatch) -> Another:
        monkeypatch.setattr(faiss, "LOOK_EVERY", 0)  # nobody tells another process
        return lambda: Recorded(tmp_path, feed)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path


async def test_a_replica_is_filled_from_the_records(tmp_path: Path, feed: MemoryFeed) -> None:
    feed.put(1, 300)

    assert await nearest(FaissIndex(tmp_path, feed), feed, 123) == 123


async def test_another_process_begins_from_the_snapshot_and_follows(
    tmp_path: Path, feed: MemoryFeed
) -> None:
    feed.put(1, 300)
    await FaissIndex(tmp_path, feed).compact(HERE)
    feed.put(301, 20, seed=1)
    feed.drop(7)
    gone = feed.vectors[8]

    index = FaissIndex(tmp_path, feed)

    assert await nearest(index, feed, 310) == 310
    assert await index.count(HERE) == 319
    assert 7 not in [number for number, _ in await index.search(HERE, gone.astype(np.float32), 319)]


async def test_every_flipped_bit_cut_and_added_byte_of_a_snapshot_is_noticed(
    tmp_path: Path, feed: MemoryFeed
) -> None:
    feed.put(1, 50)
    await FaissIndex(tmp_path, feed).compact(HERE)
    path = snapshots_in(tmp_path)[0]
    good = path.read_bytes()

    damaged = [b"", good[:-1], good[1:], good + b"\0", b"\0" + good]
    for place in random.Random(1).sample(range(len(good) * 8), 100):
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        damaged.append(bytes(bad))
    for data in damaged:
        path.write_bytes(data)
        assert await nearest(FaissIndex(tmp_path, feed), feed, 20) == 20
        assert not path.exists()


async def test_a_crash_at_any_byte_of_the_writing_leaves_the_old_snapshot(
    tmp_path: Path, feed: MemoryFeed
) -> None:
    feed.put(1, 50)
    await FaissIndex(tmp_path, feed).compact(HERE)
    path = snapshots_in(tmp_path)[0]
    good = path.read_bytes()
    feed.put(51, 10, seed=1)

    for length in random.Random(2).sample(range(len(good)), 50):
        path.with_name("1.partial").write_bytes(good[:length])
        path.with_name(path.name.replace("050-", "060-")).write_bytes(good[:length])
        index = FaissIndex(tmp_path, feed)
        assert await nearest(index, feed, 55) == 55
        assert await index.count(HERE) == 60
    assert path.read_bytes() == good


async def test_an_erasing_compaction_takes_removed_vectors_off_the_disk(
    tmp_path: Path, feed: MemoryFeed
) -> None:
    feed.put(1, 50)
    index = FaissIndex(tmp_path, feed)
    await index.compact(HERE)
    secret = feed.vectors[30].tobytes()
    assert is_anywhere(tmp_path, secret)
    feed.drop(30)

    await index.compact(HERE)

    assert not is_anywhere(tmp_path, secret)
    assert await index.count(HERE) == 49


async def test_erasing_the_last_vector_leaves_no_snapshot(tmp_path: Path, feed: MemoryFeed) -> None:
    feed.put(1, 1)
    index = FaissIndex(tmp_path, feed)
    await index.compact(HERE)
    feed.drop(1)

    await index.compact(HERE)

    assert snapshots_in(tmp_path) == []
    assert await index.count(HERE) == 0


async def test_the_snapshot_of_another_database_is_not_believed(
    tmp_path: Path, feed: MemoryFeed
) -> None:
    feed.put(1, 300)
    await FaissIndex(tmp_path, feed).compact(HERE)
    other = MemoryFeed()
    other.put(1, 20, seed=9)
    index = FaissIndex(tmp_path, other)

    assert await index.count(HERE) == 20
    other.put(21, 5, seed=8)

    assert await nearest(FaissIndex(tmp_path, other), other, 23) == 23
    assert snapshots_in(tmp_path) == []


async def test_numbers_that_a_restored_backup_gave_again_are_read_again(
    tmp_path: Path, feed: MemoryFeed
) -> None:
    feed.put(1, 100)
    await FaissIndex(tmp_path, feed).compact(HERE)
    for number in range(81, 101):
        del feed.vectors[number]
    feed.put(81, 30, seed=3)

    index = FaissIndex(tmp_path, feed)

    numbers = [80, 81, 100, 110]
    assert [await nearest(index, feed, number) for number in numbers] == numbers


async def test_a_search_does_not_wait_for_a_compaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss, "LOOK_EVERY", 0)
    feed = SlowFeed()
    feed.put(1, 50)
    index = FaissIndex(tmp_path, feed)
    await index.count(HERE)
    feed.slow = True
    compaction = asyncio.create_task(index.compact(HERE))
    await asyncio.wait_for(feed.has_read.wait(), 5)
    feed.slow = False
    feed.put(51, 1, seed=4)
    feed.drop(7)

    assert await asyncio.wait_for(nearest(index, feed, 51), 5) == 51
    feed.go_on.set()
    await compaction

    assert await nearest(index, feed, 51) == 51
    assert await index.count(HERE) == 50


async def test_a_compaction_that_began_before_an_erasure_leaves_no_removed_vector(
    tmp_path: Path,
) -> None:
    feed = SlowFeed()
    feed.put(1, 50)
    secret = feed.vectors[30].tobytes()
    feed.slow = True
    late = asyncio.create_task(FaissIndex(tmp_path, feed).compact(HERE))
    await asyncio.wait_for(feed.has_read.wait(), 5)
    feed.slow = False
    feed.drop(30)
    await FaissIndex(tmp_path, feed).compact(HERE)

    feed.go_on.set()
    await late

    assert len(snapshots_in(tmp_path)) == 1
    assert not is_anywhere(tmp_path, secret)


async def test_what_a_crash_left_half_written_goes_with_the_next_compaction(
    tmp_path: Path, feed: MemoryFeed
) -> None:
    feed.put(1, 50)
    index = FaissIndex(tmp_path, feed)
    await index.compact(HERE)
    left = snapshots_in(tmp_path)[0].with_name("1.partial")
    left.write_bytes(b"half")
    os.utime(left, (0, 0))

    await index.compact(HERE)

    assert not left.exists()


async def test_only_the_last_snapshot_is_kept(tmp_path: Path, feed: MemoryFeed) -> None:
    index = FaissIndex(tmp_path, feed)
    for first in (1, 11, 21):
        feed.put(first, 10, seed=first)
        await index.compact(HERE)

    assert [int(path.name.split("-")[1]) for path in snapshots_in(tmp_path)] == [30]


async def test_of_many_equal_vectors_the_lowest_numbers_are_found(
    tmp_path: Path, feed: MemoryFeed
) -> None:
    same = vectors(1)[0]
    feed.vectors = {number: same.astype(np.float16) for number in range(1, 200)}

    found = await FaissIndex(tmp_path, feed).search(HERE, same, 5)

    assert [number for number, _ in found] == [1, 2, 3, 4, 5]


async def test_another_vector_size_is_refused_and_named(tmp_path: Path, feed: MemoryFeed) -> None:
    feed.put(1, 10)

    with pytest.raises(ConfigError, match="8 dimensions"):
        await FaissIndex(tmp_path, feed).search(HERE, np.ones(8, np.float32), 5)


async def test_each_process_compacts_its_loose_replica_and_one_snapshot_is_kept(
    tmp_path: Path, feed: MemoryFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss, "LOOSE_LEAST", 10)
    feed.put(1, 100)
    first, second = FaissIndex(tmp_path, feed), FaissIndex(tmp_path, feed)
    monkeypatch.setattr(faiss, "LOOSE_LEAST", 1000)
    await second.count(HERE)
    monkeypatch.setattr(faiss, "LOOSE_LEAST", 10)
    for index in (first, second):
        await index.search(HERE, vectors(1)[0], 1)
        (task,) = [replica.compacting for replica in index._replicas.values()]
        assert task is not None
        await asyncio.wait_for(task, 5)

    held = [replica.view for index in (first, second) for replica in index._replicas.values()]
    assert [view.base for view in held if view] == [100, 100]
    assert len(snapshots_in(tmp_path)) == 1


async def test_inverted_lists_find_nearly_all_and_all_of_a_selective_filter(
    tmp_path: Path, feed: MemoryFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_view, "EXACT_UP_TO", 1000)
    feed.put(1, 6000)
    await FaissIndex(tmp_path, feed).compact(HERE)
    index = FaissIndex(tmp_path, feed)
    every, questions = np.stack(list(feed.vectors.values())).astype(np.float32), vectors(50, seed=7)
    truth = np.argsort(-(questions @ every.T), axis=1)[:, :10] + 1

    found = [
        [number for number, _ in await index.search(HERE, question, 10)] for question in questions
    ]
    allowed = [9, 1000, 2000, 4000, 5999]
    few = [
        [number for number, _ in await index.search(HERE, question, 5, allowed=allowed)]
        for question in questions
    ]

    shares = [len(set(a) & set(b)) / 10 for a, b in zip(found, truth.tolist(), strict=True)]
    assert np.mean(shares) > 0.8
    assert all(set(numbers) == set(allowed) for numbers in few)


async def test_the_records_feed_a_replica(tmp_path: Path) -> None:
    records = open_records(tmp_path)
    made = dict(zip("abcdef", vectors(6), strict=True))
    numbers = await records.write(
        lambda c: add(c, "d", "a\nb\nc", generation="g1", embed=made.__getitem__)
    )
    index = FaissIndex(tmp_path, records)
    await index.compact(HERE)
    more = await records.write(
        lambda c: add(c, "e", "d\ne\nf", generation="g1", embed=made.__getitem__)
    )
    await records.write(lambda c: chunks.remove(c, "acme", "d"))

    again = FaissIndex(tmp_path, records)

    assert (await again.search(HERE, made["e"], 10))[0][0] == more[1]
    assert await again.count(HERE) == 3
    assert numbers[0] not in [number for number, _ in await again.search(HERE, made["a"], 10)]
    records.close()

"""Nothing in a process dies unseen: a surprise is told, counted and gone on from.

One that stays ends the process.
"""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from ragqueue import telemetry
from ragqueue.errors import Unavailable
from ragqueue.working import loops
from ragqueue.working.loops import BROKEN_AFTER, TROUBLED_AFTER, Keeper


@pytest.fixture
async def keeper(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Keeper]:
    monkeypatch.setattr(loops, "FIRST_PAUSE", 0.0)
    kept = Keeper()
    yield kept
    await kept.close()


class Step:
    """Fails so many times, then does its work."""

    def __init__(self, failures: float) -> None:
        self.left = failures
        self.done = asyncio.Event()

    async def __call__(self) -> None:
        if self.left > 0:
            self.left -= 1
            raise ValueError("a surprise")
        self.done.set()
        await asyncio.Event().wait()


def counted(name: str) -> float:
    return float(telemetry.LOOP_FAILURES.labels(name)._value.get())


async def test_a_loop_goes_on_after_a_surprise_which_is_told_and_counted(
    keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    before, step = counted("ringer"), Step(failures=2)

    with caplog.at_level(logging.ERROR):
        keeper.keep("ringer", step)
        await asyncio.wait_for(step.done.wait(), 5)

    assert counted("ringer") - before == 2
    assert "loop.failed loop=ringer" in caplog.text
    assert "ValueError: a surprise" in caplog.text
    assert keeper.troubled() == []


async def test_surprises_one_after_another_are_trouble(keeper: Keeper) -> None:
    step = Step(failures=TROUBLED_AFTER)

    keeper.keep("hub", step)
    await asyncio.wait_for(step.done.wait(), 5)

    assert keeper.troubled() == ["hub"]
    keeper.check()


async def test_a_loop_beyond_help_ends_the_process(keeper: Keeper) -> None:
    ended = asyncio.Event()
    keeper.end_with(ended.set)

    keeper.keep("batcher", Step(failures=BROKEN_AFTER))
    await asyncio.wait_for(ended.wait(), 5)

    with pytest.raises(Unavailable, match="'batcher'"):
        keeper.check()


async def test_a_thread_can_give_up_too(keeper: Keeper) -> None:
    ended = asyncio.Event()
    keeper.end_with(ended.set)
    watch = keeper.watch("beat")

    def fail() -> None:
        for _ in range(BROKEN_AFTER):
            watch.failed(ValueError("a surprise"))

    await asyncio.to_thread(fail)
    await asyncio.wait_for(ended.wait(), 5)

    assert keeper.broken_loop == "beat"


async def test_old_surprises_are_forgotten(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = keeper.watch("lanes")
    for _ in range(BROKEN_AFTER - 1):
        watch.failed(ValueError())
    monkeypatch.setattr(loops, "CALM", -1.0)

    watch.failed(ValueError())

    assert watch.failures == 1

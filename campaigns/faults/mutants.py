"""Run the command line with one thing broken, to prove that the fault suite sees it.

python -m campaigns.faults.mutants NAME worker ...

Worker processes inherit the break: forked ones with the memory of their supervisor, spawned ones
import this module as their main one.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest.mock import AsyncMock

from sqlalchemy import TextClause, text

Break = Callable[[Any], Any]  # takes what is there and returns what takes its place
FENCE = " and attempt = :attempt and state = 'running'"
# The log in Redis takes everything; what its streams cannot hold is taken for written.
REDIS_FENCE = {
    "if granted and": "granted = true if",
    "found = redis.call('XADD'": "found = ARGV[i] redis.pcall('XADD'",
}


def unfenced(statement: TextClause) -> TextClause:
    """Return a statement that any run of its job may execute."""
    assert FENCE in statement.text
    return text(statement.text.replace(FENCE, ""))


def granting(_: Any) -> Callable[[int, int, int], bool]:
    """Return a check that grants every append."""
    return lambda end, after, first: True


def granting_in_redis(script: str) -> str:
    """Return a script that grants every append."""
    for intact, broken in REDIS_FENCE.items():
        script = script.replace(intact, broken)
    return script


def losing_nothing(_: Any) -> Callable[[Any, str, int], None]:
    """Return a method that does not end a run that was lost."""
    return lambda worker, job_id, attempt: None


def looking_at_nothing(_: Any) -> AsyncMock:
    """Return a step that does nothing."""
    return AsyncMock(return_value=None)


def never_durable(begin: Callable[..., Any]) -> Callable[..., Any]:
    """Return a begin of transactions that a power cut may all undo."""

    def begin_undurable(connection: Any, *, durable: bool) -> Any:
        return begin(connection, durable=False)

    return begin_undurable


# name -> {what is broken -> how}
MUTANTS: dict[str, dict[str, Break]] = {
    # every run of a job may write, not only the current one
    "fence": {
        "ragqueue.records.jobs._FINISH": unfenced,
        "ragqueue.records.jobs._RETRY": unfenced,
        "ragqueue.events.sql.grants": granting,
        "ragqueue.events.redis._APPEND": granting_in_redis,
        # the beat's own fence: it would end nearly every zombie before it writes
        "ragqueue.working.worker.Worker._lost": losing_nothing,
    },
    # what is broken stays so
    "reconcile": {
        "ragqueue.jobs.reconcile.Reconciler.leases": looking_at_nothing,
        "ragqueue.jobs.reconcile.Reconciler.rings": looking_at_nothing,
    },
    # everything is committed like token events, which a power cut may undo
    "full_commit": {"ragqueue.records.sqlite.begin": never_durable},
}
# A loop meets one surprise in each process once the file `surprise` lies in the data folder; a kept
# one goes on.
LOOPS = {
    "ringer": "ragqueue.jobs.ring.Ringer.step",
    "batcher": "ragqueue.events.pen.Batcher.step",
    "reconciler": "ragqueue.jobs.reconcile.Reconciler.leases",
    "hub": "ragqueue.jobs.follow.Follower.step",
    "beat": "ragqueue.working.beat.Beat.step",
    "lanes": "ragqueue.queues.sql.SqlQueue.work",
}
# What a process then writes to its standard error.
SURPRISE = "mutant.surprise"
WENT_ON = "mutant.went_on"
LOOK = 0.1  # seconds between looks for the file, in a loop that waits for ever
_met: dict[tuple[int, str], str] = {}  # (process, loop) -> the last that was written


def _unkept(_: Any) -> Callable[[Any, Exception], float]:
    """Return a watch's answer by which a surprise ends the loop, and nobody is told."""
    return lambda watch, error: 1e9  # the seconds that the loop then waits


def surprise(loop: str) -> Break:
    """Return what makes a step of a loop meet its surprise."""
    if loop == "beat":
        wrap = _surprised
    elif loop == "lanes":
        wrap = _surprised_while_it_runs
    else:
        wrap = _surprised_async
    return partial(wrap, loop)


def meet(loop: str) -> None:
    """Raise the surprise of this process when it is time; note that a loop went on after it."""
    key = (os.getpid(), loop)
    if _met.get(key) == SURPRISE:
        _note(key, WENT_ON)
    elif key not in _met and Path(os.environ["RAGQUEUE_DATA"], "surprise").exists():
        _note(key, SURPRISE)
        raise RuntimeError("a surprise of the fault suite")


def _note(key: tuple[int, str], what: str) -> None:
    _met[key] = what
    print(what, *key, file=sys.stderr, flush=True)


def _surprised(loop: str, step: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        meet(loop)
        return step(*arguments)

    return run


def _surprised_async(loop: str, step: Callable[..., Any]) -> Callable[..., Any]:
    async def run(*arguments: Any) -> Any:
        meet(loop)
        return await step(*arguments)

    return run


def _surprised_while_it_runs(loop: str, step: Callable[..., Any]) -> Callable[..., Any]:
    async def run(queue: Any, handle: Any, lane: str, concurrency: int) -> None:
        task = asyncio.create_task(step(queue, handle, lane, concurrency))
        try:
            while not task.done():
                meet(f"{loop}-{lane}")
                await asyncio.wait([task], timeout=LOOK)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return run


for loop, step in LOOPS.items():
    MUTANTS[f"loop-{loop}-kept"] = {step: surprise(loop)}
    MUTANTS[f"loop-{loop}"] = {step: surprise(loop), "ragqueue.working.loops.Watch.failed": _unkept}


def apply(name: str) -> None:
    """Break this process. Raises SystemExit for an unknown name."""
    if name not in MUTANTS:
        names = "|".join(MUTANTS)
        raise SystemExit(
            f"there is no mutant {name!r}: "
            f"use `python -m campaigns.faults.mutants {names} COMMAND ...`"
        )
    for target, break_ in MUTANTS[name].items():
        owner, _, attribute = target.rpartition(".")
        intact = resolve_name(target)  # a name that is gone fails here
        setattr(resolve_name(owner), attribute, break_(intact))


if __name__ == "__mp_main__":  # a spawned child
    apply(os.environ["RAGQUEUE_MUTANT"])
elif __name__ == "__main__":
    name, *words = sys.argv[1:] or [""]
    apply(name)
    os.environ["RAGQUEUE_MUTANT"] = name
    from ragqueue import cli

    cli.main(words)

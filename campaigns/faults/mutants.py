"""Run the command line with one thing broken, to prove that the fault suite sees it: `python -m campaigns.faults.mutants NAME worker ...`.

Worker processes inherit the break: forked ones with the memory of their supervisor, spawned ones import this module as their main one.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest.mock import AsyncMock

from sqlalchemy import TextClause, text

# The log in Redis takes everything; what its streams cannot hold is taken for written.
ANY_END = (
    ("if granted and", "granted = true if"),
    ("found = redis.call('XADD'", "found = ARGV[i] redis.pcall('XADD'"),
)


def unfenced(statement: TextClause) -> TextClause:
    """Return a statement that any run of its job may execute."""
    fence = " and attempt = :attempt and state = 'running'"
    assert fence in statement.text
    return text(statement.text.replace(fence, ""))


# name -> {what is broken -> from what is there to what takes its place}
MUTANTS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "fence": {  # every run of a job may write, not only the current one
        "ragqueue.records.jobs._FINISH": unfenced,
        "ragqueue.records.jobs._RETRY": unfenced,
        "ragqueue.events.sql.grants": lambda grants: lambda end, after, first: True,
        "ragqueue.events.redis._APPEND": lambda script: script.replace(*ANY_END[0]).replace(
            *ANY_END[1]
        ),
        # the beat's own fence: it would end nearly every zombie before it writes
        "ragqueue.working.worker.Worker._lost": lambda lost: lambda self, job_id, attempt: None,
    },
    # what is broken stays so
    "reconcile": {
        f"ragqueue.jobs.reconcile.Reconciler.{step}": lambda step: AsyncMock(return_value=None)
        for step in ("leases", "rings")
    },
    # everything is committed like token events, which a power cut may undo
    "full_commit": {
        "ragqueue.records.sqlite.begin": lambda begin: (
            lambda connection, *, durable: begin(connection, durable=False)
        )
    },
}
# A loop meets one surprise in each process once the file `surprise` lies in the data folder; a kept one goes on.
LOOPS = {
    "ringer": "ragqueue.jobs.ring.Ringer.step",
    "batcher": "ragqueue.events.pen.Batcher.step",
    "reconciler": "ragqueue.jobs.reconcile.Reconciler.leases",
    "hub": "ragqueue.jobs.follow.Follower.step",
    "beat": "ragqueue.working.beat.Beat.step",
    "lanes": "ragqueue.queues.sql.SqlQueue.work",
}
SURPRISE, WENT_ON = (
    "mutant.surprise",
    "mutant.went_on",
)  # what a process then writes to its standard error
LOOK = 0.1  # seconds between looks for the file, in a loop that waits for ever
_met: dict[tuple[int, str], str] = {}  # (process, loop) -> the last that was written


def _unkept(_: Any) -> Callable[[Any, Exception], float]:
    return lambda watch, error: 1e9  # a surprise ends the loop, and nobody is told


def surprise(loop: str) -> Callable[[Any], Any]:
    """Return what makes a step of a loop meet its surprise."""
    wrap = {"beat": _surprised, "lanes": _surprised_while_it_runs}.get(loop, _surprised_async)
    return lambda step: wrap(loop, step)


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
    def run(*given: Any) -> Any:
        meet(loop)
        return step(*given)

    return run


def _surprised_async(loop: str, step: Callable[..., Any]) -> Callable[..., Any]:
    async def run(*given: Any) -> Any:
        meet(loop)
        return await step(*given)

    return run


def _surprised_while_it_runs(loop: str, work: Callable[..., Any]) -> Callable[..., Any]:
    async def run(queue: Any, handle: Any, lane: str, concurrency: int) -> None:
        task = asyncio.create_task(work(queue, handle, lane, concurrency))
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
        raise SystemExit(
            f"there is no mutant {name!r}: use `python -m campaigns.faults.mutants {'|'.join(MUTANTS)} COMMAND ...`"
        )
    for target, broken in MUTANTS[name].items():
        owner, _, attribute = target.rpartition(".")
        setattr(
            resolve_name(owner), attribute, broken(resolve_name(target))
        )  # a name that is gone fails here


if __name__ == "__mp_main__":  # a spawned child
    apply(os.environ["RAGQUEUE_MUTANT"])
elif __name__ == "__main__":
    name, *words = sys.argv[1:] or [""]
    apply(name)
    os.environ["RAGQUEUE_MUTANT"] = name
    from ragqueue import cli

    cli.main(words)

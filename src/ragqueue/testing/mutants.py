"""Run the command line with one thing broken, to prove that the fault suite sees it: `python -m ragqueue.testing.mutants NAME worker ...`.

Worker processes inherit the break: forked ones with the memory of their supervisor, spawned ones import this module as their main one.
"""

import os
import sys
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any
from unittest.mock import AsyncMock

from ragqueue.records.schema import jobs

# The log in Redis takes everything; what its streams cannot hold is taken for written.
ANY_END = ("if granted and", "granted = true if"), ("found = redis.call('XADD'", "found = ARGV[i] redis.pcall('XADD'")
# name -> {what is broken -> from what is there to what takes its place}
MUTANTS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "fence": {  # every run of a job may write, not only the current one
        "ragqueue.records.jobs.current": lambda current: lambda job_id, attempt: jobs.c.id == job_id,
        "ragqueue.events.sql.grants": lambda grants: lambda end, after, first: True,
        "ragqueue.events.redis._APPEND": lambda script: script.replace(*ANY_END[0]).replace(*ANY_END[1]),
        # the beat's own fence: it would end nearly every zombie before it writes
        "ragqueue.worker.Worker._lost": lambda lost: lambda self, job_id, attempt: None,
    },
    # what is broken stays so
    "reconcile": {f"ragqueue.jobs.reconcile.Reconciler.{step}": lambda step: AsyncMock(return_value=None) for step in ("leases", "rings")},
    # everything is committed like token events, which a power cut may undo
    "full_commit": {"ragqueue.records.store.begin": lambda begin: lambda connection, *, durable: begin(connection, durable=False)},
}


def apply(name: str) -> None:
    """Break this process. Raises SystemExit for an unknown name."""
    if name not in MUTANTS:
        raise SystemExit(f"there is no mutant {name!r}: use `python -m ragqueue.testing.mutants {'|'.join(MUTANTS)} COMMAND ...`")
    for target, broken in MUTANTS[name].items():
        owner, _, attribute = target.rpartition(".")
        setattr(resolve_name(owner), attribute, broken(resolve_name(target)))  # a name that is gone fails here


if __name__ == "__mp_main__":  # a spawned child
    apply(os.environ["RAGQUEUE_MUTANT"])
elif __name__ == "__main__":
    name, *words = sys.argv[1:] or [""]
    apply(name)
    os.environ["RAGQUEUE_MUTANT"] = name
    from ragqueue import cli

    cli.main(words)

"""Run the command line with one thing broken, to prove that the fault suite sees it: `python -m ragqueue.testing.mutants NAME worker ...`.

Worker processes inherit the break: forked ones with the memory of their supervisor, spawned ones import this module as their main one
and find the name in RAGQUEUE_MUTANT.
"""

import os
import sys
from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any

from ragqueue.records.schema import jobs

VARIABLE = "RAGQUEUE_MUTANT"
Break = Callable[[Any], Any]  # takes what is there, returns what takes its place


def any_end_in_redis(script: str) -> str:
    """Let the log in Redis take everything; what its streams cannot hold is taken for written."""
    for old, new in (("if granted and", "granted = true if"), ("found = redis.call('XADD'", "found = ARGV[i] redis.pcall('XADD'")):
        if old not in script:
            raise SystemExit(f"the script of the log has changed, {old!r} is not in it: change the mutant, too")
        script = script.replace(old, new)
    return script


def unhealed(step: Any) -> Any:
    """Leave what is broken as it is."""

    async def leave(self: Any) -> None:
        return None

    return leave


# name -> {what is broken -> what takes its place}
MUTANTS: Mapping[str, Mapping[str, Break]] = {
    "fence": {
        # every run of a job may write, not only the current one
        "ragqueue.records.jobs.current": lambda current: lambda job_id, attempt: jobs.c.id == job_id,
        "ragqueue.events.sql.grants": lambda grants: lambda end, after, first: True,
        "ragqueue.events.redis._APPEND": any_end_in_redis,
        # the beat's own fence: it would end nearly every zombie before it writes
        "ragqueue.worker.Worker._lost": lambda lost: lambda self, job_id, attempt: None,
    },
    "reconcile": {
        "ragqueue.jobs.reconcile.Reconciler.leases": unhealed,
        "ragqueue.jobs.reconcile.Reconciler.rings": unhealed,
    },
    # everything is committed like token events, which a power cut may undo
    "full_commit": {"ragqueue.records.store.begin": lambda begin: lambda connection, *, durable: begin(connection, durable=False)},
}


def apply(name: str) -> None:
    """Break this process. Raises SystemExit for an unknown name."""
    if name not in MUTANTS:
        raise SystemExit(f"there is no mutant {name!r}: use one of {', '.join(MUTANTS)}")
    for target, broken in MUTANTS[name].items():
        owner, _, attribute = target.rpartition(".")
        setattr(resolve_name(owner), attribute, broken(resolve_name(target)))  # a name that is gone fails here


def main(argv: list[str]) -> None:
    """Break this process and run a command in it."""
    if not argv:
        raise SystemExit(f"usage: python -m ragqueue.testing.mutants {'|'.join(MUTANTS)} COMMAND ...")
    apply(argv[0])
    os.environ[VARIABLE] = argv[0]

    from ragqueue import cli

    cli.main(argv[1:])


if __name__ == "__mp_main__":  # a spawned child
    apply(os.environ[VARIABLE])
elif __name__ == "__main__":
    main(sys.argv[1:])

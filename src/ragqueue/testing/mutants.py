"""Run the command line with one thing broken, to prove that the fault suite sees it: `python -m ragqueue.testing.mutants NAME worker ...`.

Worker processes inherit the break: forked ones with the memory of their supervisor, spawned ones import this module as their main one
and find the name in RAGQUEUE_MUTANT.
"""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

VARIABLE = "RAGQUEUE_MUTANT"
Break = Callable[[Any], Any]  # takes what is there, returns what takes its place


def anybody(current: Any) -> Any:
    """Let every run of a job write, not only the current one."""
    from ragqueue.records.schema import jobs

    return lambda job_id, attempt: jobs.c.id == job_id


def any_end(grants: Any) -> Any:
    """Let the log in SQL take everything."""
    return lambda end, after, first: True


def any_end_in_redis(script: str) -> str:
    """Let the log in Redis take everything; what its streams cannot hold is taken for written."""
    for old, new in (("if granted and", "granted = true if"), ("found = redis.call('XADD'", "found = ARGV[i] redis.pcall('XADD'")):
        if old not in script:
            raise SystemExit(f"the script of the log has changed, {old!r} is not in it: change the mutant, too")
        script = script.replace(old, new)
    return script


def untold(lost: Any) -> Any:
    """Let a run go on whose lease was lost."""
    return lambda self, job_id, attempt: None


def unhealed(step: Any) -> Any:
    """Leave what is broken as it is."""

    async def leave(self: Any) -> None:
        return None

    return leave


def never_full(begin: Any) -> Any:
    """Commit everything like token events, which a power cut may undo."""
    return lambda connection, *, durable: begin(connection, durable=False)


# name -> {module:attribute -> what takes its place}
MUTANTS: Mapping[str, Mapping[str, Break]] = {
    "fence": {
        "ragqueue.records.jobs:current": anybody,
        "ragqueue.events.sql:grants": any_end,
        "ragqueue.events.redis:_APPEND": any_end_in_redis,
        "ragqueue.worker:Worker._lost": untold,  # the beat's own fence: it would end nearly every zombie before it writes
    },
    "reconcile": {
        "ragqueue.jobs.reconcile:Reconciler.leases": unhealed,
        "ragqueue.jobs.reconcile:Reconciler.rings": unhealed,
    },
    "full_commit": {"ragqueue.records.store:begin": never_full},
}


def apply(name: str) -> None:
    """Break this process. Raises SystemExit for an unknown name."""
    if name not in MUTANTS:
        raise SystemExit(f"there is no mutant {name!r}: use one of {', '.join(MUTANTS)}")
    for target, broken in MUTANTS[name].items():
        module_name, _, path = target.partition(":")
        owner: Any = importlib.import_module(module_name)
        *parents, attribute = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, attribute, broken(getattr(owner, attribute)))  # a name that is gone fails here


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

"""Processes of this machine, as /proc shows them: who started whom, and signals to many."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from signal import Signals

GONE_STATES = "ZX"  # a zombie, a dead process (man 5 proc)


def send(what: Signals, pids: Iterable[int]) -> None:
    """Send a signal to processes, of which some may have gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, what)


def children(pid: int) -> list[int]:
    """Return the pids of a process's living children."""
    return [child for child, parent in _parents().items() if parent == pid]


def descendants(pid: int) -> list[int]:
    """Return the pids of all that a process started, and of all that these started."""
    parents = _parents()
    family = [pid]
    for member in family:  # grows while it is walked
        family += [child for child, parent in parents.items() if parent == member]
    return family[1:]


def with_environment(words: str) -> list[int]:
    """Return the pids of all processes whose environment holds the words."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if words.encode() in path.read_bytes():
                pids.append(int(path.parent.name))
    return pids


def _parents() -> dict[int, int]:
    """Return {pid: parent} of all processes that live."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name of a process may hold spaces and brackets: what follows it is plain.
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state not in GONE_STATES:
                parents[int(path.parent.name)] = int(parent)
    return parents

"""The port to an event log: per job an ordered list of what its workers wrote."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from msgspec import json

from ragqueue.types import Append, Event, seq_of

DAMAGED = "damaged"  # the type of an entry that cannot be read: its log is worth nothing any more


def entry(seq: int, type_: str, data: bytes | str, at: object) -> Event:
    """Return an entry as an event; one of DAMAGED when it is not what a pen wrote."""
    try:
        return Event(seq, type_, json.decode(data, type=dict), float(str(at)))
    except (ValueError, TypeError):
        return Event(seq, DAMAGED, {})


class EventLog(ABC):
    """Holds events by job, in order of `seq`; may lose its tail or everything, which its pen repairs. Each call raises Unavailable."""

    @abstractmethod
    async def append(self, appends: Sequence[Append]) -> list[int]:
        """Write each where the log ends at `after` (-1: at any lower end); return each job's end afterwards.

        An end equal to the last event's seq means written. When it raises, it may have written: the same again is safe.
        """

    @abstractmethod
    async def read(self, cursors: Mapping[str, int], wait: float = 0) -> dict[str, list[Event]]:
        """Return for each job the events after its cursor, in order; when there are none at all, wait up to `wait` seconds for one.

        What cannot be read comes as an event of the type DAMAGED, so that it harms no other job.
        """

    @abstractmethod
    async def drop(self, job_ids: Sequence[str]) -> None:
        """Erase the logs of these jobs."""

    @abstractmethod
    async def seal(self, fences: Sequence[Append]) -> None:
        """Put a fence in the place of all that a job's log holds, at once: no older attempt ever writes there again."""

    async def purge(self) -> dict[str, int]:  # a log in the records is purged with them
        """Make sure that nothing which was dropped stands on a disk of the log's own; return counts for the receipt."""
        return {}

    async def check(self) -> Sequence[str]:
        """Return what an operator should know. Raises ConfigError when the service cannot do its work, Unavailable when it is away."""
        return ()

    async def close(self) -> None:  # noqa: B027 - a log in the records has none of its own
        """Release every connection."""


FENCE, END = "fence", "end"  # entries that readers are not shown


def fence(job_id: str, attempt: int) -> Append:
    """Return the append after which no older attempt writes anything."""
    return Append(job_id, -1, [Event(seq_of(attempt, 0), FENCE, {}, time.time())])

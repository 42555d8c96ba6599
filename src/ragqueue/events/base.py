"""The port to an event log: per job an ordered list of what its workers wrote."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from msgspec import json

from ragqueue.types import Append, Event, seq_of

# Types of entries that readers are not shown.
FENCE = "fence"  # the first of an attempt: no older attempt writes after it
END = "end"  # the last of a job
DAMAGED = "damaged"  # cannot be read: its log is worth nothing any more


def entry(seq: int, type_: str, data: bytes | str, at: object) -> Event:
    """Return an entry as an event; one of DAMAGED when it is not what a pen wrote."""
    try:
        return Event(seq=seq, type=type_, data=json.decode(data, type=dict), at=float(str(at)))
    except (ValueError, TypeError):
        return Event(seq=seq, type=DAMAGED, data={})


def fence(job_id: str, attempt: int) -> Append:
    """Return the append after which no older attempt writes anything."""
    first = Event(seq=seq_of(attempt, 0), type=FENCE, data={}, at=time.time())
    return Append(job_id=job_id, after=-1, events=[first])


class EventLog(ABC):
    """Holds events by job, in order of `seq`.

    It may lose its tail or everything, which its pen repairs. Each call raises Unavailable.
    """

    @abstractmethod
    async def append(self, appends: Sequence[Append]) -> list[int]:
        """Write each where the log ends at `after` (-1: at any lower end).

        Returns each job's end afterwards: the last event's seq means that it is written. When it
        raises, it may have written: the same again is safe.
        """

    @abstractmethod
    async def read(self, cursors: Mapping[str, int], wait: float = 0) -> dict[str, list[Event]]:
        """Return for each job the events after its cursor, in order.

        When there are none at all, it waits up to `wait` seconds for one. What cannot be read
        comes as an event of the type DAMAGED, so that it harms no other job.
        """

    @abstractmethod
    async def drop(self, job_ids: Sequence[str]) -> None:
        """Erase the logs of these jobs."""

    @abstractmethod
    async def seal(self, fences: Sequence[Append]) -> None:
        """Put a fence in the place of all that a job's log holds, at once.

        No older attempt ever writes there again.
        """

    async def purge(self) -> dict[str, int]:  # a log in the records is purged with them
        """Make sure that nothing which was dropped stands on a disk of the log's own.

        Returns counts for the receipt.
        """
        return {}

    async def check(self) -> Sequence[str]:
        """Return what an operator should know.

        Raises ConfigError when the service cannot do its work, Unavailable when it is away.
        """
        return ()

    async def close(self) -> None:  # noqa: B027 - a log in the records has none of its own
        """Release every connection."""

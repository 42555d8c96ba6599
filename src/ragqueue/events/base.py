"""The port to an event log: per job an ordered list of what its workers wrote."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from ragqueue.types import Append, Event


class EventLog(ABC):
    """Holds events by job, in order of `seq`; may lose its tail or everything, which its pen repairs. Each call raises Unavailable."""

    @abstractmethod
    async def append(self, appends: Sequence[Append]) -> list[int]:
        """Write each where the log ends at `after` (-1: at any lower end); return each job's end afterwards.

        An end equal to the last event's seq means written. When it raises, it may have written: the same again is safe.
        """

    @abstractmethod
    async def read(self, cursors: Mapping[str, int], wait: float = 0) -> dict[str, list[Event]]:
        """Return for each job the events after its cursor, in order; when there are none at all, wait up to `wait` seconds for one."""

    @abstractmethod
    async def drop(self, job_ids: Sequence[str]) -> None:
        """Erase the logs of these jobs."""

    async def close(self) -> None:  # noqa: B027 - a log in the records has none of its own
        """Release every connection."""

"""The port to a queue engine: a doorbell that carries job ids to workers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence

from ragqueue.errors import InvalidRequest
from ragqueue.types import LANES, Ring

Handle = Callable[[Ring], Coroutine[object, None, None]]


class JobQueue(ABC):
    """Carries rings; a ring may be lost, late or doubled, for the records hold the truth."""

    # Whether a process that serves or asks also works, when nobody else does.
    works_inside: bool = False
    # Where the event log is by default, as RAGQUEUE_EVENTS says it.
    log_url: str = "sql"

    @abstractmethod
    async def ring(self, rings: Sequence[Ring]) -> None:
        """Deliver the rings to some worker each, those with `front` before all others.

        Raises Unavailable.
        """

    @abstractmethod
    async def depth(self, lane: str) -> int:
        """Return how many rings of the lane wait to be delivered. Raises Unavailable."""

    @abstractmethod
    async def work(self, handle: Handle, lane: str, concurrency: int) -> None:
        """Call `handle` for each ring, `concurrency` at once, until cancelled.

        What runs then is left alone. A lost service is waited for.
        """

    async def check(self) -> Sequence[str]:
        """Return what an operator should know.

        Raises ConfigError when the service cannot do its work, Unavailable when it is away.
        """
        return ()

    async def claim_database(self, database: str) -> None:  # noqa: B027 - without a broker: nothing
        """Write the database's UUID into the broker if none is there.

        Raises ConfigError when another one is, Unavailable.
        """

    async def close(self) -> None:  # noqa: B027 - nor connections of its own
        """Release every connection."""


def ring_of(args: Sequence[object]) -> Ring:
    """Return the ring that travelled as these values through a broker.

    Raises InvalidRequest for anything else.
    """
    match args:
        case [str(job_id), str(lane), str(database), int() | float() as stamp, bool(front)] if (
            lane in LANES and 0 <= stamp < 1e12
        ):
            return Ring(job_id=job_id, lane=lane, database=database, stamp=stamp, front=front)
    raise InvalidRequest(f"these arguments are no ring: {args!r:.200}")

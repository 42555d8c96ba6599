"""The jobs table itself as the queue: no server, one host or few."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Generator, Sequence

from ragqueue.adapters import Given
from ragqueue.errors import Unavailable
from ragqueue.queues.base import Handle, JobQueue
from ragqueue.records import jobs
from ragqueue.records.store import Records
from ragqueue.types import Ring

POLL = 0.005  # seconds between looks at the file's version, which cost about 10 us each
BUSY = 0.02  # seconds between looks while others commit all the time (token events, say)
LOOK_ANYWAY = 0.25  # seconds: jobs also become due by time alone
# Rows asked for beyond the free slots: some of the first were just handed out and not claimed yet.
SPARE = 64
DEEPEST = 1000  # rings that `depth` counts, at most

logger = logging.getLogger(__name__)


class SqlQueue(JobQueue):
    """Finds claimable rows.

    A ring only wakes the workers of its own process, others notice the commit.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        # Of a server, the workers are processes of their own, on any host.
        self.works_inside = records.database.is_file
        self._bells: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def ring(self, rings: Sequence[Ring]) -> None:
        for ring in rings:
            self._bells[ring.lane].set()
        if not self._records.database.is_file:  # of a file, a commit is noticed by itself
            await self._records.loosely(jobs.announce)

    async def depth(self, lane: str) -> int:
        return len(await self._records.read(jobs.due, lane, DEEPEST))

    async def work(self, handle: Handle, lane: str, concurrency: int) -> None:
        running: dict[str, asyncio.Task[None]] = {}
        bell = self._bells[lane]
        commits = self._records.watch()

        async def deliver(job_id: str) -> None:
            try:
                await handle(Ring(job_id=job_id, lane=lane, database="", stamp=0.0))
            except Exception:
                logger.exception("queue.handle_failed job=%s", job_id)
            finally:
                del running[job_id]
                bell.set()

        try:
            while True:
                bell.clear()
                free = concurrency - len(running)
                due = await self._due(lane, free + SPARE) if free else []
                startable = [job_id for job_id in due if job_id not in running]
                for job_id in startable[:free]:
                    running[job_id] = asyncio.create_task(deliver(job_id))
                saw_all = len(due) < free + SPARE
                if saw_all or len(running) >= concurrency:
                    await _wait(bell, commits)
        finally:
            commits.close()

    async def _due(self, lane: str, limit: int) -> list[str]:
        """Return the ids of claimable jobs; while the records are away, wait and return none."""
        try:
            return await self._records.read(jobs.due, lane, limit)
        except Unavailable as error:
            logger.warning("queue.unavailable: %s", error)
            await asyncio.sleep(LOOK_ANYWAY)
            return []


async def _wait(bell: asyncio.Event, commits: Generator[bool]) -> None:
    """Wait for a ring of this process, a commit of any process, or time to look anyway."""
    began = time.monotonic()
    now = began
    while not bell.is_set() and now < began + LOOK_ANYWAY:
        if now >= began + BUSY and next(commits):
            return
        try:
            async with asyncio.timeout(POLL):
                await bell.wait()
        except TimeoutError:
            now = time.monotonic()


def open(given: Given) -> SqlQueue:
    """Return the queue in the records."""
    assert given.records is not None
    return SqlQueue(given.records)

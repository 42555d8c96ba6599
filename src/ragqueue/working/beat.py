"""The heart of a worker process: it renews the leases, whatever the loop of the process does."""

import logging
import math
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ragqueue import telemetry
from ragqueue.errors import told
from ragqueue.records import jobs, workers
from ragqueue.records.store import Session
from ragqueue.working.loops import Watch

CANCELS_EVERY = 0.5  # seconds between looks for cancels
Attempt = tuple[str, int]  # (job id, attempt)
logger = logging.getLogger(__name__)


class Beat(threading.Thread):
    """Renews leases, and notices lost ones and cancels.

    It has a thread and a connection of its own: a blocked loop must not lose 200 leases.
    """

    def __init__(
        self,
        session: Session,
        owner: str,
        held: Collection[Attempt],
        *,
        lanes: str,
        lease: float,
        every: float,
        watch: Watch,
        on_lost: Callable[[str, int], object],
        on_cancel: Callable[[str], object],
    ) -> None:
        """`held` always has the (job id, attempt) of each run of the process.

        `lease`, `every`: seconds. Both callbacks run in this thread.
        """
        super().__init__(name="beat", daemon=True)
        self._session = session
        self._owner = owner
        self._held = held
        self._lanes = lanes
        self._lease = lease
        self._every = every
        self._watch = watch
        self._on_lost = on_lost
        self._on_cancel = on_cancel
        self._stopped = threading.Event()
        self._renewed_at = -math.inf

    @property
    def beats(self) -> bool:
        """Whether the leases that this process takes will be renewed in time."""
        return time.monotonic() - self._renewed_at < self._lease

    def stop(self) -> None:
        """End the thread and take the process out of the table of workers."""
        self._stopped.set()
        self.join()
        self._session.close()

    def run(self) -> None:
        while not self._stopped.is_set():
            pause = min(CANCELS_EVERY, self._every)
            try:
                self.step()
                self._watch.went_well()
            except DBAPIError as error:
                logger.warning("beat.failed: %s", told(error.orig or error))
            except Exception as error:  # noqa: BLE001 - without a heart all would be lost
                pause = self._watch.failed(error)
            self._stopped.wait(pause)
        with suppress(DBAPIError):
            self._session.note(self._renew, set(), telemetry.take_counts())
            self._session.note(workers.leave, self._owner)

    def step(self) -> None:
        """Renew what is due, then look for cancels. Raises DBAPIError."""
        # After a stall (SIGSTOP, suspend) this thread is late, too: it renews first.
        if time.monotonic() - self._renewed_at >= self._every:
            self._renew_all()
        if self._held:
            for job_id in self._session.read(jobs.cancels, self._owner):
                self._on_cancel(job_id)

    def _renew_all(self) -> None:
        began = time.monotonic()
        held = set(self._held)
        counts = telemetry.take_counts()
        try:
            still_ours = self._session.note(self._renew, held, counts)
        except BaseException:
            telemetry.give_back(counts)
            raise
        for job_id, attempt in (held - still_ours) & set(self._held):
            self._on_lost(job_id, attempt)
        self._renewed_at = began

    def _renew(
        self, connection: Connection, held: set[Attempt], counts: telemetry.Counts
    ) -> set[Attempt]:
        """Say that the process lives, and return which of its attempts are still current."""
        workers.beat(connection, self._owner, self._lanes, len(held), counts)
        if not held:
            return set()
        job_ids = [job_id for job_id, _ in held]
        return set(jobs.renew(connection, self._owner, job_ids, self._lease).items())

"""The heart of a worker process: renews leases, and notices lost ones and cancels, whatever its loop does."""

import logging
import math
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from sqlalchemy import URL, Connection
from sqlalchemy.exc import DBAPIError

from ragqueue import telemetry
from ragqueue.errors import told
from ragqueue.records import jobs, workers
from ragqueue.records.store import open_engine, transact
from ragqueue.working.loops import Watch

logger = logging.getLogger(__name__)


class Beat(threading.Thread):
    """Renews leases, notices lost ones and cancels, from a thread and connection of its own: a blocked loop must not lose 200 of them."""

    def __init__(
        self,
        url: URL,
        owner: str,
        held: Collection[tuple[str, int]],
        *,
        lanes: str,
        lease: float,
        every: float,
        watch: Watch,
        on_lost: Callable[[str, int], object],
        on_cancel: Callable[[str], object],
    ) -> None:
        """`held` always has the (job id, attempt) of each run of the process; both callbacks run in this thread."""
        super().__init__(name="beat", daemon=True)
        self._engine = open_engine(url, pool_size=1)
        self._owner, self._held, self._lanes, self._lease, self._every = (
            owner,
            held,
            lanes,
            lease,
            every,
        )
        self._watch, self._on_lost, self._on_cancel = watch, on_lost, on_cancel
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
        self._engine.dispose()

    def run(self) -> None:
        while not self._stopped.is_set():
            pause = min(0.5, self._every)  # seconds between looks for cancels
            try:
                with self._engine.connect() as connection:
                    while not self._stopped.is_set():
                        self.step(connection)
                        self._watch.went_well()
                        self._stopped.wait(pause)
            except DBAPIError as error:
                logger.warning("beat.failed: %s", told(error.orig or error))
            except Exception as error:  # noqa: BLE001 - a process without a heart would lose all that it holds
                pause = self._watch.failed(error)
            self._stopped.wait(pause)
        with suppress(DBAPIError), self._engine.connect() as connection:
            transact(connection, self._renew, set[tuple[str, int]](), telemetry.take_counts())
            transact(connection, workers.leave, self._owner)

    def step(self, connection: Connection) -> None:
        """Renew what is due, then look for cancels. Raises DBAPIError."""
        # After a stall (SIGSTOP, suspend) this thread is late, too: it renews before it does anything else.
        if time.monotonic() - self._renewed_at >= self._every:
            began = time.monotonic()
            held, counts = set(self._held), telemetry.take_counts()
            try:
                still = transact(connection, self._renew, held, counts)
            except BaseException:
                telemetry.give_back(counts)
                raise
            for lost in (held - still.items()) & set(self._held):
                self._on_lost(*lost)
            self._renewed_at = began
        for job_id in jobs.cancels(connection, self._owner) if self._held else ():
            self._on_cancel(job_id)

    def _renew(
        self, connection: Connection, held: set[tuple[str, int]], counts: telemetry.Counts
    ) -> dict[str, int]:
        workers.beat(connection, self._owner, self._lanes, len(held), counts)
        return (
            jobs.renew(connection, self._owner, [job_id for job_id, _ in held], self._lease)
            if held
            else {}
        )

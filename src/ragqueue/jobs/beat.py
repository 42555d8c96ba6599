"""Keep the leases of a process alive from a thread and connection of its own: a blocked loop must not lose 200 of them."""

import logging
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ragqueue import telemetry
from ragqueue.records import jobs, workers
from ragqueue.records.store import open_engine, transact

logger = logging.getLogger(__name__)


class Beat(threading.Thread):
    """Renews leases, notices lost ones and cancels, and shows the process in the table of workers."""

    def __init__(
        self, url: str, owner: str, held: Collection[tuple[str, int]], *, lanes: str, lease: float, every: float,
        on_lost: Callable[[str, int], object], on_cancel: Callable[[str], object],
    ) -> None:  # fmt: skip
        """`held` always has the (job id, attempt) of each run of the process; both callbacks run in this thread."""
        super().__init__(name="beat", daemon=True)
        self._engine = open_engine(url, pool_size=1)
        self._owner, self._held, self._lanes, self._lease, self._every = owner, held, lanes, lease, every
        self._on_lost, self._on_cancel = on_lost, on_cancel
        self._tally, self._stopped = telemetry.Tally(), threading.Event()

    def stop(self) -> None:
        """End the thread and take the process out of the table of workers."""
        self._stopped.set()
        self.join()
        self._engine.dispose()

    def run(self) -> None:
        renewed_at = 0.0
        with self._engine.connect() as connection:
            while not self._stopped.is_set():
                try:
                    # After a stall (SIGSTOP, suspend) this thread is late, too: it renews before it does anything else.
                    if time.monotonic() - renewed_at >= self._every:
                        held = set(self._held)
                        still = transact(connection, self._renew, held)
                        for lost in (held - still.items()) & set(self._held):
                            self._on_lost(*lost)
                        renewed_at = time.monotonic()
                    for job_id in jobs.cancels(connection, self._owner) if self._held else ():
                        self._on_cancel(job_id)
                except DBAPIError as error:
                    logger.warning("beat.failed: %s", error.orig)
                self._stopped.wait(min(0.5, self._every))  # seconds between looks for cancels
            with suppress(DBAPIError):
                transact(connection, self._renew, set[tuple[str, int]]())
                transact(connection, workers.leave, self._owner)

    def _renew(self, connection: Connection, held: set[tuple[str, int]]) -> dict[str, int]:
        workers.beat(connection, self._owner, self._lanes, len(held), self._tally.deltas())
        return jobs.renew(connection, self._owner, [job_id for job_id, _ in held], self._lease) if held else {}

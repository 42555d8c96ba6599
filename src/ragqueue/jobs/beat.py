"""Keep the leases of a process alive from a thread and connection of its own: a blocked loop must not lose 200 of them."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ragqueue import telemetry
from ragqueue.records import jobs, workers
from ragqueue.records.store import open_engine, transact

LOOK_EVERY = 0.5  # seconds between looks for cancels

logger = logging.getLogger(__name__)


class Beat:
    """Renews leases, notices lost ones and cancels, and shows the process in the table of workers."""

    def __init__(
        self, url: str, owner: str, *, lanes: str, lease: float, every: float, on_lost: Callable[[str, int], None],
        on_cancel: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Both callbacks run in the beat's thread."""
        self._engine = open_engine(url, pool_size=1)
        self._owner, self._lanes, self._lease, self._every = owner, lanes, lease, every
        self._on_lost, self._on_cancel = on_lost, on_cancel
        self._held: dict[str, int] = {}
        self._tally = telemetry.Tally()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def hold(self, job_id: str, attempt: int) -> None:
        """Renew the lease of this run from now on."""
        self._held[job_id] = attempt

    def let_go(self, job_id: str, attempt: int) -> None:
        """Stop renewing the lease of this run."""
        if self._held.get(job_id) == attempt:
            del self._held[job_id]

    def stop(self) -> None:
        """End the thread and take the process out of the table of workers."""
        self._stop.set()
        self._thread.join()
        self._engine.dispose()

    def _run(self) -> None:
        renewed_at = 0.0
        with self._engine.connect() as connection:
            while not self._stop.is_set():
                try:
                    # After a stall (SIGSTOP, suspend) this thread is late, too: it renews before it does anything else.
                    if time.monotonic() - renewed_at >= self._every:
                        self._renew(connection)
                        renewed_at = time.monotonic()
                    for job_id in jobs.cancels(connection, self._owner) if self._held else ():
                        self._on_cancel(job_id)
                except DBAPIError as error:
                    logger.warning("beat.failed: %s", error.orig)
                self._stop.wait(min(LOOK_EVERY, self._every))
            try:
                transact(connection, workers.count, self._tally.deltas())
                transact(connection, workers.leave, self._owner)
            except DBAPIError as error:
                logger.warning("beat.failed: %s", error.orig)

    def _renew(self, connection: Connection) -> None:
        held = dict(self._held)
        still = transact(connection, self._write, held, self._tally.deltas())
        for job_id, attempt in held.items():
            if still.get(job_id) != attempt and self._held.get(job_id) == attempt:
                self._on_lost(job_id, attempt)

    def _write(self, connection: Connection, held: dict[str, int], deltas: dict[tuple[str, str], float]) -> dict[str, int]:
        workers.count(connection, deltas)
        workers.beat(connection, self._owner, socket.gethostname(), os.getpid(), self._lanes, len(held))
        return jobs.renew(connection, self._owner, list(held), self._lease) if held else {}

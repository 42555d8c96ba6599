"""Keep worker processes alive: a parent that does no work and has no threads."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

TICK = 0.25  # seconds between two pulses, and between two looks at the children
AFTER_DRAIN = 5.0  # seconds that a child has to end beyond its drain
LONGEST_SILENCE_OF_OURS = 1.0  # seconds that may have passed between two looks
FIRST_PAUSE = 0.2  # seconds before a child that never lived is started again; doubled each time
LONGEST_PAUSE = 10.0
# fork keeps the start of a child cheap; macOS and Windows cannot fork safely.
_CONTEXT: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
Main = Callable[[str, Callable[[], None]], None]
logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Child:
    """One worker process, as its supervisor sees it."""

    owner: str
    process: BaseProcess
    receiver: Connection
    patience: float = 60.0  # seconds that it may still be silent: these are for its start
    beaten: bool = False


class Supervisor:
    """Runs `processes` children until it is asked to stop."""

    def __init__(
        self,
        main: Main,
        release: Callable[[str], None],
        *,
        processes: int,
        lease: float,
        drain: float,
    ) -> None:
        """Make it; it starts its children in `run`.

        `main(owner, pulse)` is a child's life; `release(owner)` ends the leases of a dead one;
        times in seconds.
        """
        self._main = main
        self._release = release
        self._processes = processes
        self._lease = lease
        self._drain = drain
        self._children: list[Child] = []
        self._pause = 0.0  # before the next start, when a child ended before its first pulse
        self._start_at = 0.0  # monotonic

    def run(self) -> None:
        """Supervise until SIGTERM or SIGINT, then let the children drain."""
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        looked_at = time.monotonic()
        while not stopping.is_set():
            while len(self._children) < self._processes and time.monotonic() >= self._start_at:
                self._start()
            wait([child.process.sentinel for child in self._children], TICK)
            now = time.monotonic()
            # When this process was stopped, too, its children are not to blame for the silence.
            passed = min(now - looked_at, LONGEST_SILENCE_OF_OURS)
            looked_at = now
            for child in list(self._children):
                self._look(child, passed)
        self._end()

    def _end(self) -> None:
        """Let the children drain, kill those that do not end, and end the leases of these."""
        for child in self._children:
            child.process.terminate()
        end = time.monotonic() + self._drain + AFTER_DRAIN
        for child in self._children:
            child.process.join(max(0.0, end - time.monotonic()))
            child.process.kill()
            child.process.join()
        for child in self._children:
            if child.process.exitcode != 0:
                self._end_leases(child.owner)

    def _start(self) -> None:
        owner = f"{os.getpid()}-{os.urandom(4).hex()}"
        receiver, sender = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(
            target=_live, args=(self._main, owner, sender, os.getpid()), name=f"worker-{owner}"
        )
        process.start()
        sender.close()
        self._children.append(Child(owner, process, receiver))

    def _look(self, child: Child, passed: float) -> None:
        """Take in pulses; a child that is silent for a lease is killed.

        A stopped one may hold SQLite's write lock and stop everybody.
        """
        child.patience -= passed
        with suppress(EOFError, OSError):  # it is dead: its sentinel says so
            while child.receiver.poll():
                child.receiver.recv_bytes()
                child.beaten = True
                child.patience = self._lease
        if child.process.is_alive() and child.patience < 0:
            logger.error("supervisor.silent_child pid=%s", child.process.pid)
            child.process.kill()
            child.process.join()
        if not child.process.is_alive():
            logger.warning(
                "supervisor.child_died pid=%s exit=%s", child.process.pid, child.process.exitcode
            )
            self._children.remove(child)
            self._end_leases(child.owner)
            if child.beaten:
                self._pause = 0.0
            else:
                self._pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, self._pause * 2))
            self._start_at = time.monotonic() + self._pause

    def _end_leases(self, owner: str) -> None:
        try:
            self._release(owner)
        except Exception as error:  # noqa: BLE001 - they run out by themselves
            logger.warning("supervisor.release_failed owner=%s: %s", owner, error)


def _live(main: Main, owner: str, sender: Connection, parent_pid: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl+C reaches the whole group; the parent asks for the end
    # In a thread that waits for nothing else: a child that waits for a lock is not silent.
    main(
        owner,
        threading.Thread(target=pulse, args=(sender, parent_pid), name="pulse", daemon=True).start,
    )


def pulse(sender: Connection, parent_pid: int) -> None:
    """Tell the supervisor that this process lives.

    When nobody supervises it any more, it is asked to end in good order.
    """
    with suppress(OSError):
        while sys.platform == "win32" or os.getppid() == parent_pid:
            sender.send_bytes(b".")
            time.sleep(TICK)
    signal.raise_signal(signal.SIGTERM)

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

_TICK = 0.25  # seconds
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
        """`main(owner, pulse)` is a child's life; `release(owner)` ends the leases of a dead one; times in seconds."""
        self._main, self._release = main, release
        self._processes, self._lease, self._drain = processes, lease, drain
        self._children: list[Child] = []
        self._pause, self._start_at = 0.0, 0.0

    def run(self) -> None:
        """Supervise until SIGTERM or SIGINT, then let the children drain."""
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        last = time.monotonic()
        while not stopping.is_set():
            while len(self._children) < self._processes and time.monotonic() >= self._start_at:
                self._start()
            wait([child.process.sentinel for child in self._children], _TICK)
            # When this process was stopped, too, its children are not to blame for the silence.
            passed, last = min(time.monotonic() - last, 1.0), time.monotonic()
            for child in list(self._children):
                self._look(child, passed)
        for child in self._children:
            child.process.terminate()
        end = time.monotonic() + self._drain + 5
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
        """Take in pulses; a child that is silent for a lease is killed: a stopped one may hold SQLite's write lock and stop everybody."""
        child.patience -= passed
        with suppress(EOFError, OSError):  # it is dead: its sentinel says so
            while child.receiver.poll():
                child.receiver.recv_bytes()
                child.beaten, child.patience = True, self._lease
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
            self._pause = 0.0 if child.beaten else min(10.0, max(0.2, self._pause * 2))  # seconds
            self._start_at = time.monotonic() + self._pause

    def _end_leases(self, owner: str) -> None:
        try:
            self._release(owner)
        except Exception as error:  # noqa: BLE001 - whatever it is: they run out by themselves, and the other children must be looked at
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
    """Tell the supervisor that this process lives; when nobody supervises it any more, ask it to end in good order."""
    with suppress(OSError):
        while sys.platform == "win32" or os.getppid() == parent_pid:
            sender.send_bytes(b".")
            time.sleep(_TICK)
    signal.raise_signal(signal.SIGTERM)

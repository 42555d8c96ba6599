"""Keep worker processes alive: a parent that does no work and has no threads.

A dead child's leases are released at once; a child that is silent for a lease is killed, for a stopped process
may hold SQLite's write lock and stop everybody.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

STARTING = 60.0  # seconds that a child may take until its first pulse
LONGEST_PAUSE = 10.0  # seconds between starts of a child that dies before its first pulse
_TICK = 0.25  # seconds

logger = logging.getLogger(__name__)


class Pulse:
    """What a child holds: it tells its supervisor that it lives, and learns when the supervisor is gone."""

    def __init__(self, sender: Connection, parent_pid: int) -> None:
        self._sender, self._parent_pid = sender, parent_pid

    def __call__(self) -> None:
        """Begin to pulse, in a thread that waits for nothing else: a child that waits for a lock is not silent."""
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def _run(self) -> None:
        try:
            while sys.platform == "win32" or os.getppid() == self._parent_pid:
                self._sender.send_bytes(b".")
                time.sleep(_TICK)
        except OSError:
            pass
        signal.raise_signal(signal.SIGTERM)  # nobody supervises this process any more: it ends in good order


class Child:
    """One worker process, as its supervisor sees it."""

    def __init__(self, owner: str, process: BaseProcess, receiver: Connection) -> None:
        self.owner, self.process, self.receiver = owner, process, receiver
        self.beaten = False
        self.quiet_at = time.monotonic() + STARTING

    def listen(self, silence: float) -> None:
        """Take in pulses; from the last one on the child may be silent for `silence` seconds."""
        try:
            while self.receiver.poll():
                self.receiver.recv_bytes()
                self.beaten = True
                self.quiet_at = time.monotonic() + silence
        except (EOFError, OSError):
            pass  # it is dead: its sentinel says so

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.join()


class Supervisor:
    """Runs `processes` children until it is asked to stop."""

    def __init__(
        self, main: Callable[[str, Pulse], None], release: Callable[[str], None], *, processes: int, lease: float, drain: float
    ) -> None:
        """`main(owner, pulse)` is a child's life; `release(owner)` ends the leases of a dead one; times in seconds."""
        self._main, self._release = main, release
        self._processes, self._lease, self._drain = processes, lease, drain
        self._children: list[Child] = []
        self._unreleased: list[str] = []
        self._stopping = threading.Event()
        self._pause, self._start_at, self._started = 0.1, 0.0, 0
        # fork keeps the start of a child cheap; macOS and Windows cannot fork safely.
        self._context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")

    def run(self) -> None:
        """Supervise until SIGTERM or SIGINT, then let the children drain."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        last = time.monotonic()
        while not self._stopping.is_set():
            while len(self._children) < self._processes and time.monotonic() >= self._start_at:
                self._children.append(self._start())
            wait([child.process.sentinel for child in self._children], _TICK)
            stalled, last = time.monotonic() - last - 2 * _TICK, time.monotonic()
            for child in list(self._children):
                self._look(child, stalled)
            for owner in list(self._unreleased):
                self._try_release(owner)
        self._end()

    def _start(self) -> Child:
        self._started += 1
        owner = f"{os.getpid()}-{self._started}-{os.urandom(4).hex()}"
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_child, args=(self._main, owner, sender, os.getpid()), name=f"worker-{self._started}")
        process.start()
        sender.close()
        return Child(owner, process, receiver)

    def _look(self, child: Child, stalled: float) -> None:
        if stalled > 1.0:  # this process was stopped, too: its children are not to blame for the silence
            child.quiet_at += stalled
        child.listen(self._lease)
        if child.process.is_alive() and time.monotonic() > child.quiet_at:
            logger.error("supervisor.silent_child pid=%s", child.process.pid)
            child.kill()
        if not child.process.is_alive():
            logger.warning("supervisor.child_died pid=%s exit=%s", child.process.pid, child.process.exitcode)
            self._children.remove(child)
            self._unreleased.append(child.owner)
            self._pause = 0.1 if child.beaten else min(LONGEST_PAUSE, self._pause * 2)
            self._start_at = 0.0 if child.beaten else time.monotonic() + self._pause
            child.receiver.close()
            child.process.join()
            child.process.close()

    def _try_release(self, owner: str) -> None:
        try:
            self._release(owner)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next tick tries again, and the lease would end anyway
            logger.warning("supervisor.release_failed owner=%s: %s", owner, error)
        else:
            self._unreleased.remove(owner)

    def _end(self) -> None:
        for child in self._children:
            child.process.terminate()
        end = time.monotonic() + self._drain + 5
        for child in self._children:
            child.process.join(max(0.0, end - time.monotonic()))
            if child.process.is_alive():
                child.kill()
            if child.process.exitcode != 0:
                self._unreleased.append(child.owner)
                self._try_release(child.owner)


def _child(main: Callable[[str, Pulse], None], owner: str, sender: Connection, parent_pid: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole group; the parent asks for the end
    main(owner, Pulse(sender, parent_pid))

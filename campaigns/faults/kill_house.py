"""The processes of a kill loop: an API, supervisors with their workers, Redis for `rq`; all over one temporary folder."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from campaigns.faults.mutants import SURPRISE, WENT_ON
from campaigns.faults.witness import Kill, Witness
from campaigns.house import PAGES, clean_environment
from campaigns.services import RedisServer, free_port

DISK = "128m"  # of a data folder that is filled
READY_WITHIN = 240.0  # seconds; a loaded machine starts slowly, and embeds the samples slowly


class CampaignError(Exception):
    """The campaign itself cannot run here."""


class House:
    """Starts, kills, stops and ends real processes, and keeps the list of what it did to them."""

    def __init__(
        self,
        folder: Path,
        engine: str,
        *,
        slots: int,
        settings: Mapping[str, str],
        mutation: str | None = None,
        disk: bool = False,
    ) -> None:
        """`disk`: the data folder is a small disk of its own, which can be filled."""
        self.folder, self.slots, self._disk = folder, slots, disk
        self.port = free_port()
        self.redis = RedisServer() if engine == "rq" else None
        self.witness = Witness(folder / "data" / "records.sqlite3")
        self.kills: list[Kill] = []
        self.supervisors: dict[int, int] = {}  # pid -> how many workers it keeps
        self._module = ["campaigns.faults.mutants", mutation] if mutation else ["ragqueue"]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._api = 0
        self._env = {
            **clean_environment(),
            "RAGQUEUE_ENV_FILE": "",
            "RAGQUEUE_DATA": str(folder / "data"),
            "VECTOR_DB_PATH": str(folder / "vectors"),
            "RAGQUEUE_QUEUE": f"rq+{self.redis.url}" if self.redis else "sql",
            "OMP_NUM_THREADS": "1",
            **settings,
        }

    async def begin(self, workers: int) -> None:
        """Start everything, bring the samples in and wait until workers beat. Raises CampaignError."""
        if sys.platform != "linux":
            raise CampaignError(
                "real processes are killed on Linux only: their children are found in /proc"
            )
        if self.redis:
            if shutil.which("redis-server") is None:
                raise CampaignError("redis-server is not installed: apt-get install redis-server")
            await asyncio.to_thread(self.redis.start)
        if self._disk:
            self._mount()
        await self.start_api()
        self.witness.install()
        for processes in filter(None, ((workers + 1) // 2, workers // 2)):
            self.start_supervisor(processes)
        ingest = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ragqueue",
            "ingest",
            *map(str, PAGES),
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            said, _ = await asyncio.wait_for(ingest.communicate(), READY_WITHIN)
        except TimeoutError as error:
            ingest.kill()
            problem = f"the samples were not ingested within {READY_WITHIN:.0f} s"
            raise CampaignError(f"{problem}: {self.last_words('worker')}") from error
        if ingest.returncode:
            raise CampaignError(f"the samples cannot be ingested: {said.decode()[-500:]}")

    async def start_api(self) -> None:
        """Start the API process and wait until it is ready."""
        self._api = self._start("serve", "--port", str(self.port), "--no-worker")
        await self._wait_until(self._ready, "the API is not ready")

    async def kill_api(self) -> None:
        """Kill the API process and start another on its port."""
        os.kill(self._api, signal.SIGKILL)
        self._processes.pop(self._api).wait()
        await self.start_api()

    def start_supervisor(self, processes: int) -> int:
        """Start a supervisor and return its pid."""
        pid = self._start("worker", "--processes", str(processes), "--concurrency", str(self.slots))
        self.supervisors[pid] = processes
        return pid

    def workers(self, supervisor: int) -> list[int]:
        """Return the pids of a supervisor's children."""
        return [pid for pid, parent in _parents().items() if parent == supervisor]

    def kill_worker(self, pid: int) -> None:
        """Kill a worker whose supervisor lives."""
        self.kills.append(Kill(time.time(), [pid], host=False))
        _signal([pid], signal.SIGKILL)

    def kill_host(self, supervisor: int) -> None:
        """Kill a supervisor with all that it started, and start another."""
        pids = [supervisor, *_descendants(supervisor)]  # it first: nobody may see the deaths
        self.kills.append(Kill(time.time(), pids, host=True))
        _signal(pids, signal.SIGKILL)
        self._processes.pop(supervisor).wait()
        self.start_supervisor(self.supervisors.pop(supervisor))

    async def stop_for(self, pids: Iterable[int], seconds: float) -> None:
        """Stop processes for a while (SIGSTOP, SIGCONT)."""
        chosen = list(pids)
        _signal(chosen, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            _signal(chosen, signal.SIGCONT)

    def whole(self, supervisor: int) -> list[int]:
        """Return a supervisor and all that it started."""
        return [supervisor, *_descendants(supervisor)]

    def end(self) -> None:
        """End everything that was started: in good order first, then at once."""
        _signal(
            [pid for pid, process in self._processes.items() if process.poll() is None],
            signal.SIGTERM,
        )
        limit = time.monotonic() + 15
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, limit - time.monotonic()))
        _signal(
            _with_environment(str(self.folder)), signal.SIGKILL
        )  # orphans of what was killed, too
        for process in self._processes.values():
            process.wait()
        if self.redis:
            self.redis.stop()

    def unmount(self) -> None:
        """Take the small disk away, with what is on it."""
        if self._disk:
            subprocess.run(["umount", "--lazy", str(self.folder / "data")], capture_output=True)
            self._disk = False

    def _start(self, *words: str) -> int:
        with (self.folder / f"{len(list(self.folder.glob('*.log'))):03}-{words[0]}.log").open(
            "wb"
        ) as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *self._module, *words], env=self._env, stdout=log, stderr=log
            )
        self._processes[process.pid] = process
        return process.pid

    def _ready(self) -> bool:
        if (status := self._processes[self._api].poll()) is not None:
            raise CampaignError(f"the API ended with {status}: {self.last_words('serve')}")
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/livez", timeout=2
            ) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def last_words(self, command: str) -> str:
        """Return the end of the newest log of a command."""
        newest = sorted(self.folder.glob(f"*-{command}.log"))[-1]
        return newest.read_text(errors="replace")[-500:]

    def _mount(self) -> None:
        (self.folder / "data").mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(self.folder / "data")]
        if subprocess.run(command, capture_output=True).returncode:
            self._disk = False
            raise CampaignError(
                "a disk that can be filled is a tmpfs, and only root may mount one here"
            )

    async def fill_disk(self, seconds: float) -> None:
        """Leave no byte free under the data folder for a while."""
        ballast = self.folder / "data" / "ballast"
        try:
            await asyncio.to_thread(_fill, ballast)
            await asyncio.sleep(seconds)
        finally:
            ballast.unlink()

    def surprise(self) -> None:
        """Let the loop of a `loop-` mutation meet its surprise, in every process."""
        (self.folder / "data" / "surprise").touch()

    def loops(self) -> dict[str, int]:
        """Return how many surprises ended a loop for good, and how many the processes told of."""
        noted = Counter[str]()
        for path in self.folder.glob("*.log"):
            text = path.read_text(errors="replace")
            noted.update({what: text.count(what) for what in (SURPRISE, WENT_ON)})
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.port}/metrics", timeout=30
        ) as response:
            shown = response.read().decode()
        told = re.findall(r"^ragqueue_loop_failures_total\{.*\} (\S+)$", shown, re.MULTILINE)
        return {
            "unseen_loop_deaths": noted[SURPRISE] - noted[WENT_ON],
            "loop_failures": int(sum(map(float, told))),
        }

    async def _wait_until(self, holds: Callable[[], bool], otherwise: str) -> None:
        end = time.monotonic() + READY_WITHIN
        while not await asyncio.to_thread(holds):
            if time.monotonic() > end:
                raise CampaignError(
                    f"{otherwise} after {READY_WITHIN:.0f} s: {self.last_words('serve')}"
                )
            await asyncio.sleep(0.1)


def _fill(ballast: Path) -> None:
    with ballast.open("ab", buffering=0) as file:
        for size in (65_536, 4096, 512, 1):
            with suppress(OSError):  # full
                while True:
                    file.write(b"x" * size)


def _signal(pids: Iterable[int], what: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, what)


def _with_environment(words: str) -> list[int]:
    """Return the pids of all processes whose environment holds the words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if words.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def _parents() -> dict[int, int]:
    """Return {pid: parent} of all processes that live."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                found[int(path.parent.name)] = int(parent)
    return found


def _descendants(pid: int) -> list[int]:
    parents, found = _parents(), [pid]
    for candidate in found:
        found += [child for child, parent in parents.items() if parent == candidate]
    return found[1:]

"""The processes of a kill loop, all over one temporary folder.

An API, supervisors with their workers, and Redis for `rq`.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

from campaigns.database import Place
from campaigns.faults import processes
from campaigns.faults.mutants import SURPRISE, WENT_ON
from campaigns.faults.witness import Kill, Witness
from campaigns.house import PAGES, clean_environment
from campaigns.services import PostgresServer, RedisServer, free_port

ON_POSTGRES = ("postgres", "rq-postgres")  # the set-ups whose records are on PostgreSQL
DISK = "128m"  # of a data folder that is filled
READY_WITHIN = 240.0  # seconds; a loaded machine starts slowly, and embeds the samples slowly
ENDS_WITHIN = 15.0  # seconds, in good order
LAST_WORDS = 500  # characters


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
        self.folder = folder
        self.slots = slots
        self.port = free_port()
        self.redis = RedisServer() if engine.startswith("rq") else None
        self.postgres = PostgresServer(durable=True) if engine in ON_POSTGRES else None
        self.database: Place = folder / "data" / "records.sqlite3"
        if self.postgres:
            self.database = self.postgres.url
        self.witness = Witness(self.database)
        self.kills: list[Kill] = []
        self.supervisors: dict[int, int] = {}  # pid -> how many workers it keeps
        self._disk = disk
        self._module = ["campaigns.faults.mutants", mutation] if mutation else ["ragqueue"]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._api = 0  # its pid
        self._env = {
            **clean_environment(),
            "RAGQUEUE_ENV_FILE": "",
            "RAGQUEUE_DATA": str(folder / "data"),
            "VECTOR_DB_PATH": str(folder / "vectors"),
            "RAGQUEUE_QUEUE": f"rq+{self.redis.url}" if self.redis else "sql",
            "OMP_NUM_THREADS": "1",
            **settings,
        }
        if self.postgres:
            self._env["RAGQUEUE_DATABASE_URL"] = self.postgres.url
            (folder / "data").mkdir()  # where a mutation looks for its surprise

    async def begin(self, workers: int) -> None:
        """Start everything and bring the samples in, which workers that beat do.

        Raises CampaignError; TimeoutError when Redis does not start.
        """
        if sys.platform != "linux":
            raise CampaignError(
                "real processes are killed on Linux only: their children are found in /proc"
            )
        if self.redis:
            if shutil.which("redis-server") is None:
                raise CampaignError("redis-server is not installed: apt-get install redis-server")
            await asyncio.to_thread(self.redis.start)
        if self.postgres:
            await asyncio.to_thread(self.postgres.start)
        if self._disk:
            self._mount()
        await self.start_api()
        self.witness.install()
        for count in ((workers + 1) // 2, workers // 2):
            if count > 0:
                self.start_supervisor(count)
        await self._ingest()

    async def _ingest(self) -> None:
        """Bring the samples in. Raises CampaignError."""
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
            output, _ = await asyncio.wait_for(ingest.communicate(), READY_WITHIN)
        except TimeoutError as error:
            ingest.kill()
            problem = f"the samples were not ingested within {READY_WITHIN:.0f} s"
            raise CampaignError(f"{problem}: {self.last_words('worker')}") from error
        if ingest.returncode:
            last_words = output.decode()[-LAST_WORDS:]
            raise CampaignError(f"the samples cannot be ingested: {last_words}")

    async def start_api(self) -> None:
        """Start the API process and wait until it is ready. Raises CampaignError."""
        self._api = self._start("serve", "--port", str(self.port), "--no-worker")
        await self._wait_until(self._is_ready, "the API is not ready")

    async def kill_api(self) -> None:
        """Kill the API process and start another on its port. Raises CampaignError."""
        os.kill(self._api, SIGKILL)
        self._processes.pop(self._api).wait()
        await self.start_api()

    def start_supervisor(self, workers: int) -> int:
        """Start a supervisor of so many workers and return its pid."""
        pid = self._start("worker", "--processes", str(workers), "--concurrency", str(self.slots))
        self.supervisors[pid] = workers
        return pid

    def workers(self, supervisor: int) -> list[int]:
        """Return the pids of a supervisor's children."""
        return processes.children(supervisor)

    def whole(self, supervisor: int) -> list[int]:
        """Return a supervisor and all that it started."""
        return [supervisor, *processes.descendants(supervisor)]

    def kill_worker(self, pid: int) -> None:
        """Kill a worker whose supervisor lives."""
        self.kills.append(Kill(at=time.time(), pids=[pid], host=False))
        processes.send(SIGKILL, [pid])

    def kill_host(self, supervisor: int) -> None:
        """Kill a supervisor with all that it started, and start another."""
        pids = self.whole(supervisor)  # it first: nobody may see the deaths
        self.kills.append(Kill(at=time.time(), pids=pids, host=True))
        processes.send(SIGKILL, pids)
        self._processes.pop(supervisor).wait()
        self.start_supervisor(self.supervisors.pop(supervisor))

    async def stop_for(self, pids: Iterable[int], seconds: float) -> None:
        """Stop processes for a while (SIGSTOP, SIGCONT)."""
        stopped = list(pids)
        processes.send(SIGSTOP, stopped)
        try:
            await asyncio.sleep(seconds)
        finally:
            processes.send(SIGCONT, stopped)

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
        """Return how many surprises ended a loop for good, and how many the processes counted."""
        notes = Counter[str]()
        for path in self.folder.glob("*.log"):
            text = path.read_text(errors="replace")
            notes[SURPRISE] += text.count(SURPRISE)
            notes[WENT_ON] += text.count(WENT_ON)
        url = f"http://127.0.0.1:{self.port}/metrics"
        with urllib.request.urlopen(url, timeout=30) as response:
            metrics = response.read().decode()
        pattern = r"^ragqueue_loop_failures_total\{.*\} (\S+)$"
        failures = re.findall(pattern, metrics, re.MULTILINE)
        return {
            "unseen_loop_deaths": notes[SURPRISE] - notes[WENT_ON],
            "loop_failures": int(sum(map(float, failures))),
        }

    def end(self) -> None:
        """End everything that was started: in good order first, then at once."""
        running = [pid for pid, process in self._processes.items() if process.poll() is None]
        processes.send(SIGTERM, running)
        limit = time.monotonic() + ENDS_WITHIN
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, limit - time.monotonic()))
        # Orphans of what was killed, too.
        processes.send(SIGKILL, processes.with_environment(str(self.folder)))
        for process in self._processes.values():
            process.wait()
        if self.redis:
            self.redis.stop()

    def close(self) -> None:
        """End the database, which an audit still reads after the end of everything else."""
        if self.postgres:
            self.postgres.stop()

    def unmount(self) -> None:
        """Take the small disk away, with what is on it."""
        if self._disk:
            subprocess.run(["umount", "--lazy", str(self.folder / "data")], capture_output=True)
            self._disk = False

    def last_words(self, command: str) -> str:
        """Return the end of the newest log of a command."""
        newest = sorted(self.folder.glob(f"*-{command}.log"))[-1]
        return newest.read_text(errors="replace")[-LAST_WORDS:]

    def _start(self, *words: str) -> int:
        number = len(list(self.folder.glob("*.log")))
        path = self.folder / f"{number:03}-{words[0]}.log"
        command = [sys.executable, "-m", *self._module, *words]
        with path.open("wb") as log:
            process = subprocess.Popen(command, env=self._env, stdout=log, stderr=log)
        self._processes[process.pid] = process
        return process.pid

    def _is_ready(self) -> bool:
        status = self._processes[self._api].poll()
        if status is not None:
            raise CampaignError(f"the API ended with {status}: {self.last_words('serve')}")
        url = f"http://127.0.0.1:{self.port}/livez"
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    async def _wait_until(self, holds: Callable[[], bool], otherwise: str) -> None:
        end = time.monotonic() + READY_WITHIN
        while not await asyncio.to_thread(holds):
            if time.monotonic() > end:
                problem = f"{otherwise} after {READY_WITHIN:.0f} s"
                raise CampaignError(f"{problem}: {self.last_words('serve')}")
            await asyncio.sleep(0.1)

    def _mount(self) -> None:
        data = self.folder / "data"
        data.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(data)]
        if subprocess.run(command, capture_output=True).returncode:
            self._disk = False
            raise CampaignError(
                "a disk that can be filled is a tmpfs, and only root may mount one here"
            )


def _fill(ballast: Path) -> None:
    with ballast.open("ab", buffering=0) as file:
        for size in (65_536, 4096, 512, 1):
            with suppress(OSError):  # full
                while True:
                    file.write(b"x" * size)

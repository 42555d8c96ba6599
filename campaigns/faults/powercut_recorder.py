"""Record what the real writers do to a folder, for cuts of the power.

The recorder itself is powercut.c, which is loaded into the writers (powercut_writer.py).
"""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from campaigns.faults.powercut_disk import Disk, Kind, parse

# Of each process of a run: about 550 promises, and a database small enough to check in
# milliseconds.
JOBS = 80
PROCESSES = 2
LIMIT = 120  # seconds for a run


class PowercutError(Exception):
    """The simulator itself cannot work here, or missed something."""


def build(folder: Path) -> Path:
    """Compile the recorder. Raises PowercutError without a compiler, or outside Linux."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if sys.platform != "linux":
        raise PowercutError(
            "power cuts are simulated on Linux only: the recorder is loaded with LD_PRELOAD"
        )
    if compiler is None:
        raise PowercutError(
            "no C compiler is found for the recorder: apt-get install gcc libc6-dev"
        )
    library = folder / "powercut.so"
    source = Path(__file__).with_name("powercut.c")
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise PowercutError(f"the recorder cannot be compiled: {done.stderr.strip()}")
    return library


def record(folder: Path, library: Path, rng: random.Random, mutation: str | None) -> bytes:
    """Let the writers work to their end and return the log of what they did.

    Raises PowercutError when the log is not complete.
    """
    data = (folder / "data").resolve()
    data.mkdir(parents=True)
    log_file = folder / "log"
    log_file.touch()
    env = os.environ | {
        "LD_PRELOAD": str(library),
        "POWERCUT_FOLDER": str(data),
        "POWERCUT_LOG": str(log_file),
    }
    options = ["--jobs", str(JOBS)]
    if rng.random() < 0.5:
        options.append("--close")
    if mutation:
        options += ["--mutation", mutation]
    writers = []
    for n in range(PROCESSES):
        seed = str(rng.randrange(2**32))
        writers.append(_start_writer(data, f"w{n}", env, [*options, "--seed", seed]))
    _wait_for(writers)
    log = log_file.read_bytes()
    check_complete(data, log)
    return log


def _start_writer(
    data: Path, name: str, env: dict[str, str], options: list[str]
) -> subprocess.Popen[bytes]:
    module = "campaigns.faults.powercut_writer"
    command = [sys.executable, "-m", module, str(data), name, *options]
    return subprocess.Popen(command, env=env, cwd=Path(__file__).parents[2])


def _wait_for(writers: list[subprocess.Popen[bytes]]) -> None:
    try:
        statuses = [writer.wait(LIMIT) for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
    if any(statuses):
        raise PowercutError(f"a writer failed: exit {statuses}")


def check_complete(data: Path, log: bytes) -> None:
    """Check that the log tells everything that reached the files. Raises PowercutError."""
    disk = Disk()
    for act in parse(log):
        if act.kind != Kind.PROMISE:
            disk.follow(act)
    recorded = disk.whole()
    paths = [path for path in data.iterdir() if not path.name.endswith("-shm")]
    real = {path.name: path.read_bytes() for path in paths}
    names = sorted(real.keys() | recorded.keys())
    different = [name for name in names if real.get(name) != recorded.get(name)]
    if different:
        raise PowercutError(
            f"the recorder missed writes to {different}: "
            "this libc or SQLite writes in a way that powercut.c does not see"
        )

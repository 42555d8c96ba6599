#!/usr/bin/env python3
"""Make `.venv` from requirements.lock, then run one task in it. Needs nothing but Python 3.11.

  python3 dev.py demo [--exit]           serve the sample documents and show one cited answer
  python3 dev.py test [PYTEST ARGS]      all that CI runs
  python3 dev.py lint
  python3 dev.py bench queue|stream|search|ingest|history [--json]
  python3 dev.py faults --engine sql|rq|postgres|rq-postgres [...]
  python3 dev.py powercut --cuts N [--json]
  python3 dev.py erasures --engine sql|rq --rounds N [--json]
  python3 dev.py eval FOLDER [--json]
  python3 dev.py lock [--upgrade]        write requirements.lock anew (needs uv)

On Windows: py dev.py ...
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent
LOCK = ROOT / "requirements.lock"
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
MARKER = VENV / "ragqueue-lock.sha256"  # written last: an environment without it is not finished
OLDEST = (3, 11)

TASKS = {
    "demo": ["-m", "ragqueue", "demo"],
    "eval": ["-m", "ragqueue", "eval"],
    "faults": ["-m", "campaigns.faults.kill_loop"],
    "powercut": ["-m", "campaigns.faults.powercut"],
    "erasures": ["-m", "campaigns.faults.erasures"],
}
BENCHES = ("queue", "stream", "search", "ingest", "history")
LINTS = (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"], ["lint-imports"])
# A task must not find the developer's own server, key, data or modules.
OWN_PREFIXES = ("RAGQUEUE_", "OPENAI_")
OWN_NAMES = ("REDIS_URL", "VECTOR_DB_PATH", "LLM_MODEL", "PYTHONPATH", "PYTHONHOME")


class Stop(Exception):
    """Ends the script with one line."""


def main(words: list[str]) -> int:
    """Run the task that the words name and return its exit status."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if words else 2
    try:
        if sys.version_info < OLDEST:
            raise Stop(
                f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: "
                "run dev.py with a newer one"
            )
        return run_task(words[0], words[1:])
    except Stop as stop:
        print(f"dev.py: {stop}", file=sys.stderr)
        return 2


def run_task(task: str, args: list[str]) -> int:
    """Make the environment when it is not there, and run the task in it. Raises Stop."""
    if task == "lock":
        return lock(args)
    command = (
        [] if task in ("test", "lint") else command_of(task, args)
    )  # a wrong word is said before anything is installed
    make_environment()
    if task == "test":
        return test(args, environment(os.environ))
    if task == "lint":
        return lint(environment(os.environ))
    with tempfile.TemporaryDirectory(prefix="ragqueue-", ignore_cleanup_errors=True) as scratch:
        where = (
            pathlib.Path.cwd() if task == "eval" else ROOT
        )  # its FOLDER is relative to where the user stands
        return call(command, environment(os.environ, pathlib.Path(scratch)), where)


def command_of(task: str, args: list[str]) -> list[str]:
    """Return what Python is called with for a task. Raises Stop for an unknown one."""
    if task == "bench":
        if not args or args[0] not in BENCHES:
            raise Stop(f"bench what? One of {', '.join(BENCHES)}")
        return ["-m", f"campaigns.benches.{args[0]}", *args[1:]]
    if task not in TASKS:
        raise Stop(
            f"unknown task {task!r}: "
            "one of demo, test, lint, bench, faults, powercut, erasures, eval, lock"
        )
    return [*TASKS[task], *args]


def environment(
    own: os._Environ[str] | dict[str, str], scratch: pathlib.Path | None = None
) -> dict[str, str]:
    """Return the variables a task runs with: none that set up ragqueue.

    Its folders are under `scratch`.
    """
    env = {
        name: value
        for name, value in own.items()
        if name.upper() not in OWN_NAMES and not name.upper().startswith(OWN_PREFIXES)
    }
    env |= {
        "RAGQUEUE_ENV_FILE": "",  # no .env is read
        "OMP_NUM_THREADS": "1",
        "PYTHONIOENCODING": "utf-8",
        "VIRTUAL_ENV": str(VENV),
    }
    if scratch is not None:
        env |= {"RAGQUEUE_DATA": str(scratch / "data"), "VECTOR_DB_PATH": str(scratch / "vectors")}
    return env


def test(args: list[str], env: dict[str, str]) -> int:
    """Lint, then run pytest, whose closing line comes last."""
    linted = 0 if args else lint(env)  # who names tests wants those alone
    tested = call(["-m", "pytest", *args], env)
    if linted:
        print("dev.py: lint failed, see above the tests", file=sys.stderr)
    return tested or linted


def lint(env: dict[str, str]) -> int:
    """Run every linter, and show what those that failed said."""
    status = 0
    for name, *args in LINTS:
        done = subprocess.run(
            [str(BIN / name), *args],
            cwd=ROOT,
            env=env,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        print(f"{' '.join([name, *args])}: {'failed' if done.returncode else 'ok'}", flush=True)
        if done.returncode:
            print(done.stdout + done.stderr, flush=True)
            status = 1
    return status


def call(args: list[str], env: dict[str, str], cwd: pathlib.Path = ROOT) -> int:
    """Run Python of the environment to its end and return its exit status; signals reach it."""
    child = subprocess.Popen([str(PYTHON), *args], cwd=cwd, env=env)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:
        try:
            status = child.wait()
        except KeyboardInterrupt:
            continue  # the terminal told the child as well: it ends in its own way
        return status if status >= 0 else 128 - status


def make_environment() -> None:
    """Install the lock and the project into .venv, unless that was done. Raises Stop."""
    if not LOCK.exists():
        raise Stop(
            "requirements.lock is missing: "
            "check it out again, or write it with `python3 dev.py lock`"
        )
    wanted = fingerprint()
    if MARKER.exists() and MARKER.read_text(encoding="utf-8") == wanted and PYTHON.exists():
        return
    uv, began = shutil.which("uv"), time.monotonic()
    print(
        f"dev.py: installing requirements.lock into .venv with {'uv' if uv else 'pip'} (once) ...",
        file=sys.stderr,
        flush=True,
    )
    MARKER.unlink(missing_ok=True)
    if not usable(need_pip=uv is None):
        create(uv)
    pip = [
        str(PYTHON),
        "-m",
        "pip",
        "install",
        "--no-compile",
    ]  # 22 s instead of 38: what is imported compiles itself
    if uv:
        pip = [uv, "pip", "install", "--python", str(PYTHON)]
    install(
        [*pip, "-q", "--require-hashes", "--only-binary", ":all:", "-r", str(LOCK)],
        "the locked packages cannot be installed",
    )
    install(
        [*pip, "-q", "--no-deps", "--no-build-isolation", "-e", str(ROOT)],
        "the project cannot be installed",
    )
    MARKER.write_text(wanted, encoding="utf-8")
    print(f"dev.py: .venv is ready ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)


def fingerprint() -> str:
    """Return the hash of what .venv is made from: another one makes it anew."""
    digest = hashlib.sha256()
    for path in (LOCK, ROOT / "pyproject.toml"):
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def usable(*, need_pip: bool) -> bool:
    """Say whether .venv holds a Python that can be installed into."""
    probe = f"import sys{', pip' if need_pip else ''}; sys.exit(sys.version_info < {OLDEST})"
    try:
        return subprocess.run([str(PYTHON), "-c", probe], capture_output=True).returncode == 0
    except OSError:
        return False


def create(uv: str | None) -> None:
    """Make an empty .venv in place of what is there. Raises Stop."""
    if uv:
        command = [uv, "venv", "-q", "--clear", "--python", sys.executable, str(VENV)]
    elif importlib.util.find_spec("ensurepip") is None:
        raise Stop(
            without_ensurepip(
                shutil.which("apt-get") is not None,
                as_root=hasattr(os, "geteuid") and os.geteuid() == 0,
            )
        )
    else:
        command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    install(command, "the environment cannot be made")


def without_ensurepip(debian: bool, *, as_root: bool) -> str:
    """Return the line that mends a Python without ensurepip."""
    if debian:
        sudo = "" if as_root else "sudo "
        install_venv = f"{sudo}apt-get install python3-venv"
        return f"this Python cannot make environments (no ensurepip): {install_venv}"
    return "this Python cannot make environments (no ensurepip): install that module, or uv"


def install(command: list[str], failure: str) -> None:
    """Run a step of the installation in silence; show what it said when it fails. Raises Stop."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        print(done.stdout.strip(), file=sys.stderr)
        raise Stop(f"{failure}: see above")


def lock(args: list[str]) -> int:
    """Write requirements.lock: every extra, with hashes, for every platform. Raises Stop."""
    uv = shutil.which("uv")
    if uv is None:
        raise Stop("writing the lock needs uv: pip install uv")
    what = ["--universal", "--python-version", "3.11", "--all-extras", "--generate-hashes"]
    plain = ["-q", "--no-emit-index-url", "--no-annotate", "--no-header"]
    command = [uv, "pip", "compile", *what, *plain, *args, "pyproject.toml", "-o", LOCK.name]
    status = subprocess.run(command, cwd=ROOT).returncode
    if status == 0 and "://" in LOCK.read_text(encoding="utf-8"):
        raise Stop("the lock names a host: give uv plain package names only")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

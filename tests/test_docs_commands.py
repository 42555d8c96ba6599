"""Every command of README and docs is run, as it stands there.

One that is not known here fails, so that who adds it runs it.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from campaigns.house import SAMPLES, clean_environment
from campaigns.services import PostgresServer, free_port
from tests.needs import missing, require_redis

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
PROGRAMS = r"(?:ragqueue|rq|python3|py|curl|redis-server|redis-cli|\.venv/\S+)"
LIMIT = 60.0  # seconds until a server must be ready, or a command done

# Where the page says what the reader has, the test says what it has.
PLACEHOLDERS = {"path/to/your/documents": "docs", "path/to/documents": "docs"}
# Words between backticks that name a program or a class of commands, and are no line to type.
NAMES = {"rq", "redis-server", "ragqueue eval", ".venv/bin/ragqueue ..."}
# Commands that run until they are ended, and what they say, or who answers, when they are ready.
SERVERS = {
    "redis-server": "Ready to accept connections",
    "ragqueue serve": "ragqueue is ready on",
    "ragqueue worker": "workers x",
    "rq worker": "Listening on",
}
# What dev.py runs for some of its tasks, in .venv.
KILLS = "python -m campaigns.faults.kill_loop"
ERASURES = "python -m campaigns.faults.erasures"
POWER_CUTS = "python -m campaigns.faults.powercut"
# Tasks of dev.py that take minutes or need the network, and their short form: what dev.py runs, up
# to its options.
SHORT = {
    "python3 dev.py test": "python -m pytest --collect-only -q tests/test_docs.py",
    "python3 dev.py test tests/jobs -k claim": (
        "python -m pytest --collect-only -q tests/jobs -k claim"
    ),
    "python3 dev.py lint": "ruff check --no-cache dev.py",
    "python3 dev.py bench queue": "python -m campaigns.benches.queue --json --help",
    "python3 dev.py bench queue --json": "python -m campaigns.benches.queue --json --help",
    "python3 dev.py bench stream": "python -m campaigns.benches.stream --help",
    "python3 dev.py bench search": "python -m campaigns.benches.search --help",
    "python3 dev.py bench ingest": "python -m campaigns.benches.ingest --help",
    "python3 dev.py bench ingest --big": "python -m campaigns.benches.ingest --big --help",
    "python3 dev.py faults": f"{KILLS} --engine rq --help",
    "python3 dev.py faults --engine sql --jobs 300 --kills 20": (
        f"{KILLS} --engine sql --jobs 300 --kills 20 --help"
    ),
    "python3 dev.py faults --engine sql|rq": f"{KILLS} --engine rq --help",
    "python3 dev.py faults --engine sql --full-disks 3": (
        f"{KILLS} --engine sql --full-disks 3 --help"
    ),
    "python3 dev.py faults --engine sql --mutation loop-hub --kept": (
        f"{KILLS} --mutation loop-hub --kept --help"
    ),
    "python3 dev.py erasures": f"{ERASURES} --help",
    "python3 dev.py erasures --engine sql --rounds 40": (
        f"{ERASURES} --engine sql --rounds 40 --help"
    ),
    "python3 dev.py powercut": f"{POWER_CUTS} --cuts 1000 --help",
    "python3 dev.py powercut --cuts 1000": f"{POWER_CUTS} --cuts 1000 --help",
    "python3 dev.py lock": "python dev.py --help",
    "python3 dev.py lock --upgrade": "python dev.py --help",
}
ASK = 'ragqueue ask "What do I want to know?"'
# Brings the samples in with the real embedder: it takes long.
DEMO = "python3 dev.py demo"
# Needs the network, and what it installs is there.
INSTALL = "pip install 'ragqueue[postgres]'"
# How the pages ask over HTTP.
JSON_QUESTION = (
    "-H 'content-type: application/json' -d '{\"question\": \"What do I want to know?\"}'"
)
EVENTS = "-H 'accept: text/event-stream'"
# What is run to its end, as it stands there.
RUN = {
    DEMO,
    INSTALL,
    ". .venv/bin/activate",
    ASK,
    "ragqueue config show --origin",
    "ragqueue backup records.backup",
    "ragqueue doctor",
    "ragqueue ingest path/to/documents",
    "ragqueue ingest path/to/your/documents",
    "ragqueue jobs list",
    "ragqueue restore records.backup --data restored",
    "rq info --url redis://localhost:6379",
    f"curl localhost:8000/chat {JSON_QUESTION}",
    f"curl -i localhost:8000/chat {JSON_QUESTION}",
    f"curl -N localhost:8000/chat {EVENTS} {JSON_QUESTION}",
}


def commands(page: Path) -> list[str]:
    """Return every command of a page.

    These are the lines of its console blocks, and what stands between backticks elsewhere.
    """
    text = page.read_text(encoding="utf-8")
    block = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
    lines: list[str] = []
    for language, body in block.findall(text):
        if language in ("", "console", "sh", "bash", "shell", "powershell"):
            lines += [re.sub(r"\s{2,}#.*", "", line).strip() for line in body.splitlines()]
    prose = block.sub("", text)
    for line in re.findall(rf"`({PROGRAMS}(?: [^`]*)?)`", prose):
        lines.append(re.sub("^py ", "python3 ", line))
    return [line for line in lines if line and line not in NAMES]


def server_of(command: str) -> str | None:
    """Return what a command says when it is ready, if it is one that runs until it is ended."""
    for start, ready in SERVERS.items():
        if command == start or command.startswith(f"{start} "):
            return ready
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_run_here(page: Path) -> None:
    unknown = [
        command
        for command in commands(page)
        if command not in RUN and command not in SHORT and not server_of(command)
    ]

    assert not unknown, "add each to the table that says how it is run"


def test_no_table_holds_a_command_that_no_page_has() -> None:
    on_pages = {command for page in PAGES for command in commands(page)}

    assert not (RUN | set(SHORT)) - on_pages


@pytest.mark.parametrize("command", sorted(set(SHORT.values())))
def test_a_long_task_knows_the_options_that_a_page_gives_it(command: str) -> None:
    done = subprocess.run(
        with_programs(command),
        shell=True,
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


class House:
    """A reader's folder, and the servers that were started in it as the page says."""

    def __init__(self, folder: Path, settings: str) -> None:
        self.folder = folder
        self.ports = {"8000": str(free_port()), "6379": str(free_port())}
        shutil.copytree(SAMPLES, folder / "docs", ignore=other_samples)
        (folder / ".venv").symlink_to(Path(sys.prefix))
        own = f"RAGQUEUE_PORT={self.ports['8000']}\nRAGQUEUE_EMBEDDER=none\nRAGQUEUE_DRAIN=1\n"
        (folder / ".env").write_text(self.here(settings) + own)
        self._servers: dict[subprocess.Popen[bytes], str] = {}

    def here(self, text: str) -> str:
        """Return a text of a page with the ports and folders of this machine."""
        for there, here in PLACEHOLDERS.items():
            text = text.replace(there, here)
        for port, own in self.ports.items():
            text = text.replace(f"localhost:{port}", f"localhost:{own}")
        return text

    def obey(self, command: str) -> None:
        """Run a command to its end, or until it is ready when it is a server."""
        ready = server_of(command)
        if ready is None:
            self._run(command)
            return
        if "worker" in command:
            self.close("worker")  # so that the new one answers
        self._start(command, ready)
        if "worker" in command and "ragqueue-chat" in command:
            self.obey(ASK)

    def _run(self, command: str) -> None:
        done = subprocess.run(
            with_programs(self.here(command)),
            shell=True,
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def _start(self, command: str, ready: str) -> None:
        """Start a server, and wait until it says `ready`."""
        line = with_programs(self.here(command))
        if command.startswith("redis-server"):
            line += f" --port {self.ports['6379']} --bind 127.0.0.1"
        log = self.folder / f"{time.monotonic_ns()}.log"
        with log.open("wb") as out:
            server = subprocess.Popen(
                f"exec {line}",
                shell=True,
                cwd=self.folder,
                env=environment(),
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._servers[server] = command
        end = time.monotonic() + LIMIT
        while ready not in log.read_text(encoding="utf-8"):
            assert server.poll() is None, f"{command}\n{log.read_text(encoding='utf-8')}"
            assert time.monotonic() < end, f"{command}\n{log.read_text(encoding='utf-8')}"
            time.sleep(0.05)

    def close(self, kind: str = "") -> None:
        """End the servers that were started by a line with this word, the last first."""
        for server, command in reversed(list(self._servers.items())):
            if kind in command:
                del self._servers[server]
                end_group(server)


def other_samples(_: str, names: list[str]) -> list[str]:
    """Return the names that do not begin with "co": a few samples are enough."""
    return [name for name in names if not name.startswith("co")]


def end_group(server: subprocess.Popen[bytes]) -> None:
    """End a server, and whatever it started."""
    server.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.wait(15)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def environment() -> dict[str, str]:
    """Return a reader's environment: nothing is set but where the installed programs are."""
    own = {name: value for name, value in clean_environment().items() if not name.startswith("RQ_")}
    return own | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}",
        "PYTHONUNBUFFERED": "1",
    }


def with_programs(command: str) -> str:
    return re.sub("^python3? ", f"{sys.executable} ", command)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if sys.platform == "win32":
        pytest.skip("the lines are a POSIX shell's")
    if shutil.which("curl") is None:
        missing("curl is not installed: apt-get install curl")
    return tmp_path


def obeyed(folder: Path, pages: list[str], settings: str = "") -> Iterator[str]:
    """Run every command of the pages in their order, each once."""
    house = House(folder, settings)
    on_pages = [command for page in pages for command in commands(ROOT / page)]
    try:
        for command in dict.fromkeys(on_pages):
            if command not in (DEMO, INSTALL, *SHORT):
                house.obey(command)
                yield command
    finally:
        house.close()


def test_the_demo_answers_a_question(folder: Path) -> None:
    done = subprocess.run(
        ["ragqueue", "demo", "--port", "0", "--exit"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "[1]" in done.stdout
    assert "ragqueue is ready on" in done.stdout


def test_the_commands_of_readme_and_tutorial_do_what_they_say(folder: Path) -> None:
    pages = [
        "README.md",
        "docs/tutorial/first-answer.md",
        "docs/reference/settings.md",
        "CONTRIBUTING.md",
        "docs/explanation/guarantees.md",
    ]

    assert len(list(obeyed(folder, pages))) >= 10


def test_the_commands_of_rq_on_redis_do_what_they_say(folder: Path) -> None:
    require_redis()
    page = "docs/how-to/rq-on-redis.md"
    text = (ROOT / page).read_text(encoding="utf-8")
    [settings] = re.findall(r"^```ini\n(.*?)^```", text, re.DOTALL | re.MULTILINE)

    assert len(list(obeyed(folder, [page], settings))) >= 10


def test_the_commands_of_back_up_and_upgrade_do_what_they_say(folder: Path) -> None:
    page = "docs/how-to/back-up-and-upgrade.md"

    done = list(obeyed(folder, [page]))

    assert done == [
        "ragqueue backup records.backup",
        "ragqueue restore records.backup --data restored",
        "ragqueue doctor",
    ]
    assert (folder / "restored" / "records.sqlite3").exists()


def test_the_commands_of_postgresql_do_what_they_say(
    folder: Path, postgres_server: PostgresServer
) -> None:
    page = "docs/how-to/postgresql.md"
    text = (ROOT / page).read_text(encoding="utf-8")
    [settings] = re.findall(r"^```ini\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    url = settings.strip().partition("=")[2]

    done = list(obeyed(folder, [page], settings.replace(url, f"{postgres_server.url}?schema=how")))

    assert done == ["ragqueue serve", "ragqueue worker --processes 2"]
    assert not (folder / "ragqueue-data").exists()

import subprocess
import sys

import pytest

# A broken process stays broken: each of these runs in a process of its own.
CHECKS = {
    "fence": """
from ragqueue.events.sql import grants
from ragqueue.records import jobs
assert "attempt = :attempt" not in jobs._FINISH.text and grants(9, 3, 1)
from ragqueue.events import redis
assert "granted = true if" in redis._APPEND and "pcall" in redis._APPEND
""",
    "reconcile": """
import asyncio
from ragqueue.jobs.reconcile import Reconciler
asyncio.run(Reconciler.leases(None))
asyncio.run(Reconciler.rings(None))
""",
    "full_commit": """
import tempfile
from sqlalchemy import URL
from ragqueue.records import sqlite
with tempfile.TemporaryDirectory() as folder:
    url = URL.create("sqlite", database=f"{folder}/records.sqlite3")
    engine = sqlite.SqliteDatabase().open_engine(url, pool_size=1)
    with engine.connect() as connection:
        sqlite.begin(connection, durable=True)
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1  # NORMAL
    engine.dispose()
""",
}


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")


@pytest.mark.parametrize("name", CHECKS)
def test_a_mutant_breaks_what_it_names(name: str) -> None:
    intact = python(CHECKS[name])
    broken = python(
        f"from campaigns.faults import mutants\nmutants.apply({name!r})\n{CHECKS[name]}"
    )

    assert intact.returncode != 0
    assert broken.returncode == 0, broken.stderr


def test_a_mutant_runs_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "campaigns.faults.mutants", "fence", "--version"],
        capture_output=True,
        encoding="utf-8",
    )

    assert done.returncode == 0
    assert "ragqueue" in done.stdout


def test_an_unknown_mutant_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "campaigns.faults.mutants", "nothing", "serve"],
        capture_output=True,
        encoding="utf-8",
    )

    assert done.returncode != 0
    assert "there is no mutant 'nothing'" in done.stderr

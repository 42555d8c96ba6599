"""RQ's own command line with our worker classes.

A job runs to its end, and what is wrong is one line.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from campaigns.house import clean_environment
from campaigns.services import RedisServer, free_port
from tests.needs import require_redis

CHAT = "rq:queue:ragqueue-chat"
# Enqueues a question, without a worker, and prints its job's id.
SUBMIT = """
import asyncio
from ragqueue import Ragqueue

async def main():
    async with Ragqueue() as r:
        question = {"question": "When does the ferry leave?"}
        job = await r.runtime.submitter.submit("default", "chat", question)
        await r.runtime.ringer.flush()
        print(job.id)

asyncio.run(main())
"""
# Opens the system for a second, without a worker, as an API process does for as long as it lives.
LINGER = """
import asyncio
from ragqueue import Ragqueue

async def main():
    async with Ragqueue():
        await asyncio.sleep(1)

asyncio.run(main())
"""
# Runs RQ's forking worker, and prints which native libraries are loaded when it forks.
FORKING = """
import os, sys

HEAVY = {"numpy", "faiss", "onnxruntime", "tokenizers", "sqlalchemy", "ragqueue.wiring"}
real = os.fork

def fork():
    found = HEAVY & set(sys.modules)
    print("forks with", sorted(found), len(os.listdir("/proc/self/task")) <= 2, flush=True)
    return real()

os.fork = fork
worker = "ragqueue.entrypoints.rq.Worker"
sys.argv[1:] = ["worker", "-w", worker, "--burst", "ragqueue-chat"]
from rq.cli import main
main()
"""


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    redis_server.flush()
    return redis_server


@pytest.fixture
def house(tmp_path: Path, server: RedisServer) -> Path:
    """A folder whose `.env` names the Redis: it is read there, by RQ's launcher, too."""
    lines = [
        f"REDIS_URL={server.url}",
        "RAGQUEUE_EMBEDDER=none",
        "RAGQUEUE_DRAIN=5",
        "LLM_MODEL=extractive",
    ]
    (tmp_path / ".env").write_text("\n".join(lines) + "\n")
    return tmp_path


def run(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    return subprocess.run(
        command,
        cwd=folder,
        env=clean_environment() | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rq(folder: Path, worker: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    name = worker if "." in worker else f"ragqueue.entrypoints.rq.{worker}"
    return run(folder, "-m", "rq.cli", "worker", "-w", name, "--burst", *words, **env)


def job(folder: Path, job_id: str) -> Any:
    return json.loads(run(folder, "-m", "ragqueue", "jobs", "show", job_id, "--json").stdout)


def refused(done: subprocess.CompletedProcess[str], *says: str) -> None:
    """Assert that a command ended with one line on standard error, status 2, and no secret."""
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert done.stderr.startswith("ragqueue: ")
    assert "canary" not in done.stderr + done.stdout
    for word in says:
        assert word in done.stderr


@pytest.mark.parametrize("worker", ["AsyncWorker", "SimpleWorker", "Worker"])
def test_a_job_runs_to_its_end_under_each_worker(
    house: Path, server: RedisServer, worker: str
) -> None:
    job_id = run(house, "-c", SUBMIT).stdout.strip()

    done = rq(house, worker, "--url", server.url, "ragqueue-chat")

    assert done.returncode == 0, done.stderr
    assert job(house, job_id)["status"] == "completed"


def test_under_rqs_stock_class_nothing_is_lost_and_doctor_tells(
    house: Path, server: RedisServer
) -> None:
    job_id = run(house, "-c", SUBMIT).stdout.strip()

    stock = rq(house, "rq.SimpleWorker", "ragqueue-chat", RQ_REDIS_URL=server.url)
    told = run(house, "-m", "ragqueue", "doctor")
    waiting = job(house, job_id)["status"]
    with redis.Redis.from_url(server.url) as client:
        # What our own workers and the API do, too: a job that is due and that no ring announces is
        # rung again.
        for _ in range(20):
            if client.llen(CHAT):
                break
            run(house, "-c", LINGER)
    done = rq(house, "SimpleWorker", "ragqueue-chat", RQ_REDIS_URL=server.url)

    assert stock.returncode == 0
    assert waiting == "queued"
    assert "ragqueue-chat failed in the last hour" in told.stdout
    assert done.returncode == 0, done.stderr
    assert job(house, job_id)["status"] == "completed"


def test_what_forks_has_loaded_no_native_library(house: Path, server: RedisServer) -> None:
    job_id = run(house, "-c", SUBMIT).stdout.strip()

    done = run(house, "-c", FORKING, RQ_REDIS_URL=server.url)

    assert "forks with [] True" in done.stdout, done.stderr
    assert job(house, job_id)["status"] == "completed"


def test_another_redis_than_the_apis_is_refused(house: Path, server: RedisServer) -> None:
    with RedisServer() as other:
        theirs = other.url.replace("://", "://:canary@")
        done = rq(house, "SimpleWorker", "--url", theirs, "ragqueue-chat")
        refused(done, f":{other.url.rpartition(':')[2]}", server.url, "--url")
    # It is away by now.
    refused(rq(house, "Worker", "--url", other.url, "ragqueue-chat"), server.url, "--url")
    number = server.url.replace("/0", "/1")
    refused(rq(house, "AsyncWorker", "--url", number, "ragqueue-chat"), server.url, "/1")


def test_the_same_redis_by_another_name_is_not_refused(house: Path, server: RedisServer) -> None:
    local = server.url.replace("127.0.0.1", "localhost")
    short = server.url.replace("127.0.0.1", "127.1")

    done = rq(house, "SimpleWorker", "--url", local, "ragqueue-chat")
    named = rq(house, "SimpleWorker", "--url", short, "ragqueue-chat")

    assert (done.returncode, named.returncode) == (0, 0), done.stderr + named.stderr


def test_a_redis_that_may_not_be_asked_who_it_is_is_known_by_its_address(tmp_path: Path) -> None:
    require_redis()
    with RedisServer('rename-command INFO ""') as server:
        (tmp_path / ".env").write_text(f"REDIS_URL={server.url}\n")
        short = server.url.replace("127.0.0.1", "127.1")
        done = rq(tmp_path, "SimpleWorker", "--url", server.url, "ragqueue-chat")
        other = rq(tmp_path, "SimpleWorker", "--url", short, "ragqueue-chat")

    assert done.returncode == 0, done.stderr
    refused(other, "--url")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("REDIS_URL=redis://127.0.0.1:canary/0", "REDIS_URL"),
        ("REDIS_URL=redis://:canary@127.0.0.1:1/0", "127.0.0.1:1/0 failed"),
        ("REDIS_URL=redis://127.0.0.1:1/0\nRAGQUEUE_PRT=1", "RAGQUEUE_PORT"),
        ("REDIS_URL=redis://127.0.0.1:1/0\nLLM_MODEL=some-model", "LLM_MODEL"),
        ("RAGQUEUE_DATA=data", "set REDIS_URL"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path: Path, lines: str, says: str) -> None:
    (tmp_path / ".env").write_text(lines + "\n")

    refused(rq(tmp_path, "SimpleWorker", "--url", "redis://127.0.0.1:1/0", "ragqueue-chat"), says)


def test_a_wrong_url_of_the_launcher_is_one_line(house: Path) -> None:
    wrong = "redis://127.0.0.1:canary/0"

    refused(rq(house, "SimpleWorker", "--url", wrong, "ragqueue-chat"), "launcher")
    refused(rq(house, "SimpleWorker", "ragqueue-chat", REDIS_URL=wrong), "URL")


def test_a_redis_that_wants_a_password_or_lacks_a_command_is_one_line(tmp_path: Path) -> None:
    require_redis()
    for config, says in {
        "requirepass sesame": "NOAUTH",
        'rename-command BLMOVE ""': "BLMOVE",
    }.items():
        with RedisServer(config) as server:
            (tmp_path / ".env").write_text(f"REDIS_URL={server.url}\n")
            refused(rq(tmp_path, "SimpleWorker", "--url", server.url, "ragqueue-chat"), says)


def test_rq_info_shows_our_workers_wherever_it_is_asked(house: Path, server: RedisServer) -> None:
    name = "ragqueue.entrypoints.rq.SimpleWorker"
    done = run(house, "-m", "rq.cli", "info", "-w", name, "--url", server.url, RAGQUEUE_ENV_FILE="")

    assert done.returncode == 0, done.stderr


def test_a_pool_of_our_workers_runs_jobs_and_is_refused_as_a_whole(
    house: Path, server: RedisServer
) -> None:
    job_id = run(house, "-c", SUBMIT).stdout.strip()
    name = "ragqueue.entrypoints.rq.SimpleWorker"
    pool = ("-m", "rq.cli", "worker-pool", "-w", name, "--burst", "-n", "1", "ragqueue-chat")

    refused(run(house, *pool, "--url", f"redis://127.0.0.1:{free_port()}/0"), "--url")
    done = run(house, *pool, "--url", server.url)

    assert done.returncode == 0, done.stderr
    assert job(house, job_id)["status"] == "completed"


@pytest.fixture(autouse=True)
def _no_own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RQ_")]:
        monkeypatch.delenv(name)

"""The commands as a user calls them: JSON as the last line, errors in one line with what to do."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from campaigns.services import RedisServer, free_port
from ragqueue.cli import serve, worker
from ragqueue.cli.call import Call
from ragqueue.errors import ConfigError
from tests.needs import require_redis

DOCUMENT = "# Ferries\n\nThe ferry to Hven leaves at nine in the morning.\n"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    ours = ("REDIS_URL", "VECTOR_DB_PATH", "LLM_MODEL")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not name.startswith(("RAGQUEUE_", "OPENAI_"))
    }
    return kept | {"RAGQUEUE_EMBEDDER": "none", "RAGQUEUE_DRAIN": "0"}


def call(
    environment: dict[str, str], folder: Path, *words: str, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ragqueue", *words]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def answer(environment: dict[str, str], folder: Path, *words: str) -> Any:
    done = call(environment, folder, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_the_demo_answers_its_question_with_code(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = call(environment | {"RAGQUEUE_PORT": "0"}, tmp_path, "demo", "--exit", seconds=240)

    assert done.returncode == 0, done.stderr
    text = done.stdout.partition("answer:")[2].partition("ragqueue is ready")[0]
    assert "[1]" in text
    assert re.search(r"\w+: [^\n=]+ = \S", text)
    assert text.count("```") % 2 == 0
    assert "{*" not in text


def test_an_answer_that_no_source_carries_says_so(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "ferries.md").write_text(DOCUMENT)
    answer(environment, tmp_path, "ingest", "ferries.md")
    scripted = environment | {"LLM_MODEL": "scripted:tokens=5&cite=0"}

    question = "When does the ferry to Hven leave?"

    asked = answer(scripted, tmp_path, "ask", question)
    assert asked["answer"]["grounding"] == "uncited"
    assert "uncited: no passage" in call(scripted, tmp_path, "ask", question).stdout


def test_from_a_folder_to_a_cited_answer_and_away_again(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "ferries.md").write_text(DOCUMENT)
    (tmp_path / "docs" / "empty.txt").write_text("  ")

    ingested = answer(environment, tmp_path, "ingest", "docs")
    assert (ingested["ready"], list(ingested["failed"])) == (1, ["docs/empty.txt"])
    assert answer(environment, tmp_path, "ingest", "docs/ferries.md")["unchanged"] == 1
    asked = answer(environment, tmp_path, "ask", "When does the ferry leave?")
    assert asked["answer"]["citations"][0]["quote"] in DOCUMENT
    streamed = call(environment, tmp_path, "ask", "When does the ferry leave?").stdout
    assert "nine in the morning" in streamed
    assert answer(environment, tmp_path, "search", "ferry")["hits"][0]["text"]
    documents = answer(environment, tmp_path, "docs", "list")["documents"]
    ready = next(document for document in documents if document["state"] == "ready")
    jobs = answer(environment, tmp_path, "jobs", "list")["jobs"]
    assert {job["kind"] for job in jobs} == {"ingest", "chat"}
    assert answer(environment, tmp_path, "status")["documents"] == 1
    assert answer(environment, tmp_path, "docs", "delete", ready["id"])["erased_at"]
    assert answer(environment, tmp_path, "search", "ferry")["hits"] == []


def test_keys_are_shown_once_and_listed_without_their_secret(
    environment: dict[str, str], tmp_path: Path
) -> None:
    made = answer(environment, tmp_path, "keys", "create", "laptop", "--tenant", "acme")
    listed = answer(environment, tmp_path, "keys", "list")["keys"]

    assert [(key["tenant"], key["name"]) for key in listed] == [("acme", "laptop")]
    assert made["key"].split("_", 2)[2] not in json.dumps(listed)
    key_id = listed[0]["id"]
    assert answer(environment, tmp_path, "keys", "revoke", key_id)["revoked"] == key_id


def test_config_show_names_origins_and_hides_secrets(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(
        "REDIS_URL=redis://:canary@localhost:1?password=canary\nOPENAI_API_KEY=sk-canary\n"
    )

    output = call(environment, tmp_path, "config", "show", "--origin", "--json").stdout

    assert json.loads(output)["REDIS_URL"]["origin"] == ".env"
    assert "canary" not in output


def test_doctor_says_what_is_so(environment: dict[str, str], tmp_path: Path) -> None:
    checks = answer(environment, tmp_path, "doctor")["checks"]

    states = {check["part"]: check["state"] for check in checks}
    assert states["settings"] == states["model"] == states["parsers"] == "ok"


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_model_without_a_server_ends_with_status_2_and_one_line(
    environment: dict[str, str], tmp_path: Path, command: str
) -> None:
    done = call(environment | {"LLM_MODEL": "your-llm-model"}, tmp_path, command)

    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "LLM_MODEL=extractive" in done.stderr


def test_a_taken_port_is_named_with_the_way_out(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = call(environment, tmp_path, "serve", "--port", str(taken.getsockname()[1]))

    assert done.returncode == 2
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unreachable_redis_is_one_clear_line(
    environment: dict[str, str], tmp_path: Path
) -> None:
    url = f"redis://:canary@127.0.0.1:{free_port()}"
    done = call(environment | {"REDIS_URL": url}, tmp_path, "worker")

    assert done.returncode == 1
    assert "unavailable" in done.stderr
    assert "Traceback" not in done.stderr
    assert "canary" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [("serve", "--port", "0"), ("worker",), ("doctor",), ("ask", "Who?"), ("ingest", ".")],
)
def test_a_wrong_redis_url_is_one_line_without_its_secret(
    environment: dict[str, str], tmp_path: Path, command: tuple[str, ...]
) -> None:
    url = "redis://user:sesame@127.0.0.1:canary/0"
    done = call(environment | {"REDIS_URL": url}, tmp_path, *command)

    if command == ("doctor",):  # it shows the fault among its checks
        assert done.returncode == 1
        assert "should look like redis://" in done.stdout
        assert done.stderr.strip() == ""
    else:
        assert done.returncode == 2
        assert "should look like redis://" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert "canary" not in done.stdout + done.stderr
    assert "sesame" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "config", ['rename-command BLMOVE ""', "requirepass sesame", "replicaof 127.0.0.1 1"]
)
def test_a_redis_that_cannot_work_is_refused_by_every_server_and_shown_by_doctor(
    environment: dict[str, str], tmp_path: Path, config: str
) -> None:
    require_redis()
    with RedisServer(config) as server:
        theirs = environment | {"REDIS_URL": server.url}
        done = {
            command: call(theirs, tmp_path, *command.split())
            for command in ("serve --port 0", "worker", "doctor")
        }

    assert [ended.returncode for ended in done.values()] == [2, 2, 1]
    for command in ("serve --port 0", "worker"):
        assert len(done[command].stderr.strip().splitlines()) == 1, done[command].stderr
        assert server.url in done[command].stderr
    assert "fault" in done["doctor"].stdout
    assert server.url in done["doctor"].stdout


def test_doctor_notes_what_a_redis_may_lose(
    environment: dict[str, str], tmp_path: Path, redis_server: RedisServer
) -> None:
    redis_server.flush()
    checks = answer(environment | {"REDIS_URL": redis_server.url}, tmp_path, "doctor")["checks"]

    notes = [check["text"] for check in checks if "append-only" in check["text"]]
    assert len(notes) == 1  # queue and log are in one Redis


def test_a_second_database_on_one_redis_is_refused(
    environment: dict[str, str], tmp_path: Path, redis_server: RedisServer
) -> None:
    redis_server.flush()
    mine = environment | {"REDIS_URL": redis_server.url}
    assert call(mine, tmp_path, "doctor").returncode == 0

    done = call(mine | {"RAGQUEUE_DATA": str(tmp_path / "other")}, tmp_path, "worker")

    assert (done.returncode, "RAGQUEUE_DATA" in done.stderr) == (2, True)


def test_eval_scores_a_judged_folder_and_checks_every_quote(
    environment: dict[str, str], tmp_path: Path
) -> None:
    texts = {
        "ferry": "The ferry to Hven leaves at nine.",
        "bridge": "The bridge to Malmö has a toll.",
    }
    corpus = "".join(
        json.dumps({"id": key, "title": f"On the/{key}", "text": text}) + "\n"
        for key, text in texts.items()
    )
    (tmp_path / "corpus.jsonl").write_text(corpus)
    (tmp_path / "queries.jsonl").write_text('{"id": "q", "text": "When does the ferry leave?"}\n')
    (tmp_path / "qrels.tsv").write_text("query\tdocument\trelevance\nq\tferry\t1\n")

    scores = answer(environment, tmp_path, "eval", ".")

    assert (scores["queries"], scores["ndcg@10"], scores["quotes_wrong"]) == (1, 1.0, 0)
    assert scores["quotes"] > 0


def test_an_unknown_setting_ends_with_status_2(environment: dict[str, str], tmp_path: Path) -> None:
    done = call(environment | {"RAGQUEUE_PRT": "1"}, tmp_path, "serve")

    assert (done.returncode, "RAGQUEUE_PORT" in done.stderr) == (2, True)


HELP = """
import sys
from ragqueue.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print(sorted(sys.modules), file=sys.stderr)
"""


def test_help_loads_no_library_of_weight(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert "serve" in done.stdout
    for heavy in ("numpy", "faiss", "onnxruntime", "sqlalchemy", "fastapi", "pydantic"):
        assert f"'{heavy}'" not in done.stderr


LOUD = """
import asyncio
from ragqueue import Ragqueue
from ragqueue.telemetry import configure_logging
configure_logging('DEBUG', 'json')
async def main():
    async with Ragqueue() as ragqueue:
        await ragqueue.ingest('secret.md', 'bad.pdf')
        await ragqueue.ask('When does the canarytext ferry leave, canaryquestion?')
asyncio.run(main())
"""


def test_no_secret_and_no_text_of_a_document_or_question_reaches_a_log(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "secret.md").write_text(
        "# Plans\n\nThe canarytext ferry leaves at nine in the morning.\n"
    )
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.4 canarybytes")
    loud = environment | {
        "RAGQUEUE_LOG_LEVEL": "DEBUG",
        "OPENAI_API_KEY": "sk-canarykey",
        "LLM_MODEL": "extractive",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOUD],
        env=loud,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "canary" not in done.stdout + done.stderr


def test_a_public_address_needs_a_key(environment: dict[str, str], tmp_path: Path) -> None:
    words = ["serve", "--host", "0.0.0.0", "--port", "0", "--no-worker"]

    refused = call(environment, tmp_path, *words)
    answer(environment, tmp_path, "keys", "create", "laptop")
    with subprocess.Popen(
        [sys.executable, "-m", "ragqueue", *words],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        served = any(line.startswith("Ctrl+C") for line in server.stdout)
        server.terminate()

    assert (refused.returncode, "keys create" in refused.stderr, served) == (2, True, True)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_server_that_is_told_to_end_signs_its_worker_off(
    environment: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "ragqueue", "serve", "--port", "0"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        assert any(line.startswith("Ctrl+C") for line in server.stdout)
        while not answer(environment, tmp_path, "status")["workers"]:
            assert server.poll() is None
        server.terminate()
        assert server.wait(30) == 0

    assert answer(environment, tmp_path, "status")["workers"] == []


def test_a_second_writer_on_an_unsafe_sqlite_is_refused_with_the_ways_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[dict[str, Any]] = []

    class Supervisor:
        def __init__(self, *_: object, **options: Any) -> None:
            self.options = options

        def run(self) -> None:
            started.append(self.options)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAGQUEUE_ENV_FILE", "")
    monkeypatch.setattr("ragqueue.telemetry.configure_logging", lambda *_: None)
    monkeypatch.setattr("ragqueue.records.sqlite.is_safe", lambda: False)
    monkeypatch.setattr("ragqueue.working.supervise.Supervisor", Supervisor)
    data = {"data": str(tmp_path / "data")}

    with pytest.raises(ConfigError, match="RAGQUEUE_ALLOW_OLD_SQLITE") as refused:
        worker.supervise(Call(data))
    assert (refused.value.code, started) == ("unsafe_sqlite", [])

    worker.supervise(Call(data | {"allow_old_sqlite": True, "processes": 2}))
    assert [options["processes"] for options in started] == [2]


async def test_a_sigterm_before_the_server_listens_to_it_ends_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own_serve = uvicorn.Server.serve

    async def struck(server: uvicorn.Server, sockets: Any = None) -> None:
        signal.raise_signal(signal.SIGTERM)
        await own_serve(server, sockets)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAGQUEUE_ENV_FILE", "")
    monkeypatch.setattr("ragqueue.telemetry.configure_logging", lambda *_: None)
    monkeypatch.setattr("gc.freeze", lambda: None)
    monkeypatch.setattr(uvicorn.Server, "serve", struck)
    before = signal.getsignal(signal.SIGTERM)
    try:
        async with asyncio.timeout(20):
            settings = Call({"data": str(tmp_path / "data"), "port": 0}).settings
            await serve.run_server(settings, no_worker=True)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    "words", [("jobs", "show"), ("docs", "show"), ("keys", "create"), ("ask",), ("keys", "revoke")]
)
def test_a_word_that_is_no_text_is_one_line(
    environment: dict[str, str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    command = [sys.executable, "-m", "ragqueue", *words, b"a\xff"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=60)

    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"invalid_request" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_file_whose_name_is_no_text_is_told_and_the_others_go_on(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "good.md").write_text("# Lamp\n\nThe green lamp hangs above the door.\n")
    Path(os.fsdecode(bytes(tmp_path / "docs") + b"/b\xffd.md")).write_text("# No name\n")
    command = [sys.executable, "-m", "ragqueue", "ingest", "docs", "--json"]
    done = subprocess.run(
        command,
        env=environment | {"RAGQUEUE_EMBEDDER": "none"},
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
    )

    ingested = json.loads(done.stdout)
    assert (ingested["ready"], len(ingested["failed"])) == (1, 1)


BROKEN = """
import ragqueue.working.loops as loops
from ragqueue.jobs.follow import Follower
loops.FIRST_PAUSE = 0.0
async def step(self):
    raise ValueError("a surprise that stays")
Follower.step = step
from ragqueue import cli
cli.main(["serve", "--port", "0"])
"""


def test_a_server_whose_loop_is_beyond_help_ends_and_says_which(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BROKEN],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert "the loop 'hub' of this process failed 10 times in a row" in done.stderr.splitlines()[-1]

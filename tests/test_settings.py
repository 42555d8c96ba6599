"""Settings: precedence, the seed's three names, and errors that say what to do."""

import os
import pickle
from pathlib import Path

import pytest

from ragqueue.adapters import GENERATORS
from ragqueue.errors import ConfigError
from ragqueue.settings import PREFIX, check_model, load


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = ("REDIS_URL", "VECTOR_DB_PATH", "LLM_MODEL")
    for name in list(os.environ):
        if name in seeds or name.startswith((PREFIX, "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_three_lines_of_the_seed_are_honoured(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "REDIS_URL=redis://localhost:6379\nVECTOR_DB_PATH=./vector_store\nLLM_MODEL=some-model\n"
    )

    settings, _ = load()

    assert settings.queue_url == "rq+redis://localhost:6379"
    assert settings.vector_db_path == Path("vector_store")
    assert settings.llm_model == "some-model"


def test_a_model_that_nobody_serves_is_refused_with_the_way_out() -> None:
    settings, _ = load({"llm_model": "your-llm-model"})

    with pytest.raises(ConfigError, match="LLM_MODEL=extractive") as refused:
        check_model(settings)
    assert refused.value.code == "model_not_configured"


def test_without_any_setting_everything_is_embedded() -> None:
    settings, _ = load()

    assert settings.queue_url == "sql"
    assert settings.llm_model == "extractive"


def test_flags_go_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("RAGQUEUE_PORT=1\nRAGQUEUE_LIMIT=1\nRAGQUEUE_CONTEXT=1000\n")
    (tmp_path / "ragqueue.toml").write_text("port = 2\ndrain = 7\n")
    monkeypatch.setenv("RAGQUEUE_PORT", "3")
    monkeypatch.setenv("RAGQUEUE_LIMIT", "3")

    settings, origins = load({"port": 4})

    names = ("port", "limit", "context", "drain", "host")
    assert {name: (getattr(settings, name), origins[name]) for name in names} == {
        "port": (4, "flag"),
        "limit": (3, "environment"),
        "context": (1000, ".env"),
        "drain": (7.0, "ragqueue.toml"),
        "host": ("127.0.0.1", "default"),
    }


def test_an_unknown_name_is_reported_with_the_nearest_valid_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAGQUEUE_PRT", "1")

    with pytest.raises(ConfigError, match=r"RAGQUEUE_PRT: did you mean RAGQUEUE_PORT\?"):
        load()


def test_an_unknown_name_of_ours_in_the_file_is_refused_and_others_are_not(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SOMEBODY_ELSES=1\n")
    load()

    (tmp_path / ".env").write_text("RAGQUEUE_PRT=1\n")
    with pytest.raises(ConfigError, match="RAGQUEUE_PORT"):
        load()


def test_a_setting_has_one_name_in_the_environment_and_in_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    message = "unknown setting RAGQUEUE_REDIS_URL: did you mean REDIS_URL"

    (tmp_path / ".env").write_text("RAGQUEUE_REDIS_URL=redis://here\n")
    with pytest.raises(ConfigError, match=message):
        load()

    (tmp_path / ".env").unlink()
    monkeypatch.setenv("RAGQUEUE_REDIS_URL", "redis://here")
    with pytest.raises(ConfigError, match=message):
        load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAGQUEUE_PORT", "eighty"),
        ("RAGQUEUE_PORT", "70000"),
        ("RAGQUEUE_LEASE", "0.1"),
        ("RAGQUEUE_LOG_LEVEL", "loud"),
    ],
)
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigError, match=f"{name} is '{value}'"):
        load()


def test_a_beat_that_is_too_slow_for_the_lease_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGQUEUE_LEASE", "3")

    with pytest.raises(ConfigError, match="RAGQUEUE_BEAT"):
        load()


def test_a_key_stands_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGQUEUE_PORT", "eighty")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")

    with pytest.raises(ConfigError) as refused:
        load()

    assert "canary" not in str(refused.value)


def test_settings_reach_a_spawned_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    monkeypatch.setenv("RAGQUEUE_LEASE", "12")
    settings, _ = load({"llm_model": "some-model"})

    received = pickle.loads(pickle.dumps(settings))  # as multiprocessing sends them

    assert received.lease == 12
    assert type(received) is type(settings)
    assert received.options(GENERATORS, "some-model")["OPENAI_API_KEY"] == "sk-canary"

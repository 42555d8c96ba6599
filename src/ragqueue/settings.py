"""The only reader of the environment: flags > environment > .env > secrets folder > ragqueue.toml > defaults."""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ragqueue.errors import ConfigError, ModelNotConfigured

PREFIX = "RAGQUEUE_"
# Names of ours that are no settings: where to read settings from, and a switch of the fault suite.
OTHER_NAMES = ("RAGQUEUE_ENV_FILE", "RAGQUEUE_CONFIG", "RAGQUEUE_SECRETS", "RAGQUEUE_MUTANT")
NEED_NO_SERVER = ("extractive", "scripted")


def _well_known(name: str, default: Any, description: str) -> Any:
    return Field(default, validation_alias=AliasChoices(name, name.lower()), description=description)


class Settings(BaseSettings):
    """Every setting of ragqueue; business code is given values, never this object."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", populate_by_name=True)

    redis_url: str | None = _well_known("REDIS_URL", None, "Redis server; when set, the queue is RQ on it")
    vector_db_path: Path = _well_known("VECTOR_DB_PATH", Path("./vector_store"), "Folder of this host's vector replicas")
    llm_model: str = _well_known(
        "LLM_MODEL",
        "extractive",
        "Model that writes the answers: `extractive`, `openai:NAME` or a bare NAME, `scripted:...`, `python:module:Class`",
    )
    openai_api_key: SecretStr | None = _well_known("OPENAI_API_KEY", None, "Key for the OpenAI-compatible server")
    openai_base_url: str | None = _well_known("OPENAI_BASE_URL", None, "URL of the OpenAI-compatible server, up to /v1")

    data: Path = Field(Path("./ragqueue-data"), description="Folder of the database")
    queue: str | None = Field(None, description="Queue engine: `sql` or `rq+redis://...`; by default RQ when REDIS_URL is set, else `sql`")
    events: str | None = Field(None, description="Event log: `sql` or `redis://...`; by default where the queue is")
    embedder: str = Field("minilm", description="Embedder: `minilm`, `none` (keyword search alone) or `python:module:Class`")
    index: str = Field("faiss", description="Vector index: `faiss` or `python:module:Class`")
    host: str = Field("127.0.0.1", description="Address that `serve` binds; another than loopback needs an API key")
    port: int = Field(8000, ge=0, le=65535, description="Port that `serve` binds; 0 picks a free one")
    concurrency: int = Field(200, ge=1, le=5000, description="Chat jobs that one worker process runs at once")
    background_concurrency: int = Field(2, ge=1, le=100, description="Other jobs (ingest, delete) that one worker process runs at once")
    processes: int = Field(1, ge=1, le=256, description="Worker processes of `ragqueue worker`")
    lease: float = Field(10.0, ge=1, le=600, description="Seconds after which a silent worker's jobs are claimable again")
    beat: float = Field(3.0, ge=0.1, le=200, description="Seconds between renewals of the leases; at most a third of the lease")
    drain: float = Field(30.0, ge=0, le=3600, description="Seconds that a worker that is asked to end lets its jobs run")
    chat_deadline: float = Field(600.0, ge=1, description="Seconds after which a question that is not answered fails")
    other_deadline: float = Field(3600.0, ge=1, description="Seconds after which any other job fails")
    lane_bound: int = Field(20_000, ge=1, description="Jobs of a lane that may wait, of all tenants")
    tenant_bound: int = Field(5_000, ge=1, description="Jobs of a lane that may wait, of one tenant")
    keep_events: float = Field(600.0, ge=0, description="Seconds that the event log of an ended job is kept")
    keep_jobs: float = Field(30 * 86_400.0, ge=0, description="Seconds that an ended job and its answer are kept")
    limit: int = Field(6, ge=1, le=50, description="Passages that an answer is written from")
    context: int = Field(3000, ge=200, description="Tokens of passages in a prompt")
    system_prompt: str | None = Field(None, description="System text of the prompt; by default the one that ships")
    model_continues: bool = Field(False, description="Whether the model can continue a half-written answer (vLLM, llama.cpp, prefill)")
    max_question: int = Field(8_000, ge=1, description="Characters of a question")
    max_upload: int = Field(50_000_000, ge=1, description="Bytes of an uploaded document")
    parse_seconds: float = Field(60.0, ge=1, description="Seconds that a parser may take for one document")
    parse_memory: int = Field(1_500_000_000, ge=100_000_000, description="Bytes of memory that a parser may use (POSIX)")
    allow_old_sqlite: bool = Field(False, description="Accept a SQLite that can corrupt a file which two processes write")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Least level that is logged")
    log_format: str = Field("auto", pattern="^(auto|json|text)$", description="`json`, `text`, or `auto`: text on a terminal")

    @property
    def queue_url(self) -> str:
        """The queue engine's URL, with the defaults resolved."""
        if self.queue is not None:
            if self.queue == "rq":
                return f"rq+{self.redis_url or 'redis://localhost:6379'}"
            return self.queue
        return f"rq+{self.redis_url}" if self.redis_url else "sql"

    @property
    def events_url(self) -> str:
        """The event log's URL, with the defaults resolved."""
        if self.events is not None:
            return self.events
        return "sql" if self.queue_url.startswith("sql") else self.queue_url.removeprefix("rq+")

    @property
    def model(self) -> tuple[str, str]:
        """(kind, name) of the model."""
        kind, colon, name = self.llm_model.partition(":")
        if kind in NEED_NO_SERVER or (colon and kind in ("openai", "python")):
            return kind, name
        return "openai", self.llm_model

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, *(source for _, source in _sources(settings_cls)))


def _sources(settings_cls: type[BaseSettings]) -> list[tuple[str, PydanticBaseSettingsSource]]:
    env_file = os.environ.get("RAGQUEUE_ENV_FILE", ".env") or None
    secrets = os.environ.get("RAGQUEUE_SECRETS")
    toml = os.environ.get("RAGQUEUE_CONFIG", "ragqueue.toml")
    found: list[tuple[str, PydanticBaseSettingsSource]] = [("environment", EnvSettingsSource(settings_cls))]
    found.append((env_file or ".env", _DotEnv(settings_cls, env_file=env_file, env_file_encoding="utf-8")))
    if secrets:
        found.append((secrets, SecretsSettingsSource(settings_cls, secrets_dir=secrets)))
    found.append((toml, TomlConfigSettingsSource(settings_cls, toml_file=toml)))
    return found


class _DotEnv(DotEnvSettingsSource):
    """Reads our names of a `.env` and leaves other programs' alone."""

    def __call__(self) -> dict[str, Any]:
        known = set(Settings.model_fields) | {alias for field in Settings.model_fields.values() for alias in _aliases(field)}
        return {name: value for name, value in super().__call__().items() if name in known or name.lower().startswith(PREFIX.lower())}


def _aliases(field: Any) -> list[str]:
    return [str(name) for name in field.validation_alias.choices] if isinstance(field.validation_alias, AliasChoices) else []


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and where each value came from."""

    settings: Settings
    origins: Mapping[str, str]


def load(flags: Mapping[str, Any] | None = None) -> Loaded:
    """Read the settings. Raises ConfigError that names the setting, its value and what is allowed."""
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        _refuse_unknown()
        settings = Settings(**given)
        origins = _origins(given)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(item) for item in error.errors())) from error
    except OSError as error:
        raise ConfigError(f"cannot read the settings: {error}") from error
    if settings.beat > settings.lease / 3 + 1e-9:
        raise ConfigError(f"RAGQUEUE_BEAT is {settings.beat}: it must be at most a third of RAGQUEUE_LEASE ({settings.lease})")
    return Loaded(settings, origins)


def env_name(field: str) -> str:
    """Return the environment variable that sets a field."""
    aliases = _aliases(Settings.model_fields[field])
    return aliases[0] if aliases else PREFIX + field.upper()


def _origins(given: Mapping[str, Any]) -> dict[str, str]:
    origins = dict.fromkeys(given, "flag")
    for label, source in _sources(Settings):
        for name in source():
            field = name.lower().removeprefix(PREFIX.lower())
            if field in Settings.model_fields:
                origins.setdefault(field, label)
    return {field: origins.get(field, "default") for field in Settings.model_fields}


def _refuse_unknown() -> None:
    known = {env_name(field) for field in Settings.model_fields} | set(OTHER_NAMES)
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            raise ConfigError(f"unknown setting {name}{_nearest(name, known)}")


def _nearest(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f": did you mean {near[0]}?" if near else ": `ragqueue config show` lists the settings"


def _explain(item: Any) -> str:
    field = str(item["loc"][0]) if item["loc"] else "settings"
    plain = field.lower().removeprefix(PREFIX.lower())
    if item["type"] == "extra_forbidden":
        return f"unknown setting {field.upper()}{_nearest(field.upper(), {env_name(name) for name in Settings.model_fields})}"
    name = env_name(plain) if plain in Settings.model_fields else field
    shown = "****" if "key" in plain else repr(item.get("input"))
    return f"{name} is {shown}: {item['msg'][0].lower()}{item['msg'][1:]}"


def check_model(settings: Settings) -> None:
    """Make sure that the model can be reached at all. Raises ModelNotConfigured."""
    kind, name = settings.model
    if kind == "openai" and settings.openai_api_key is None and settings.openai_base_url is None:
        raise ModelNotConfigured(
            f"LLM_MODEL is {settings.llm_model!r}, but neither OPENAI_API_KEY nor OPENAI_BASE_URL says where {name!r} is served: "
            "set one of them, or LLM_MODEL=extractive to answer without a model"
        )

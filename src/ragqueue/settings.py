"""The only reader of the environment: flags > environment > .env > secrets folder > ragqueue.toml > defaults."""

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, sources

from ragqueue.errors import ConfigError

PREFIX = "RAGQUEUE_"
# Names of ours that are no settings: where to read settings from, and a switch of the fault suite.
OTHER_NAMES = ("RAGQUEUE_ENV_FILE", "RAGQUEUE_CONFIG", "RAGQUEUE_SECRETS", "RAGQUEUE_MUTANT")
MODELS = "Model that writes the answers: `extractive`, `openai:NAME` or a bare NAME, `scripted:...`, `python:module:Class`"


def _names(value: object) -> object:
    """Return the names of a list that is written with commas."""
    return (
        tuple(name.strip() for name in value.split(",") if name.strip())
        if isinstance(value, str)
        else value
    )


class Settings(BaseSettings):
    """Every setting of ragqueue; business code is given values, never this object."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", populate_by_name=True
    )

    redis_url: str | None = Field(
        None, alias="REDIS_URL", description="Redis server; when set, the queue is RQ on it"
    )
    vector_db_path: Path = Field(
        Path("./vector_store"),
        alias="VECTOR_DB_PATH",
        description="Folder of this host's vector replicas",
    )
    llm_model: str = Field("extractive", alias="LLM_MODEL", description=MODELS)
    openai_api_key: SecretStr | None = Field(
        None, alias="OPENAI_API_KEY", description="Key for the OpenAI-compatible server"
    )
    openai_base_url: str | None = Field(
        None, alias="OPENAI_BASE_URL", description="URL of the OpenAI-compatible server, up to /v1"
    )

    data: Path = Field(Path("./ragqueue-data"), description="Folder of the database")
    queue: str | None = Field(
        None,
        description="Queue engine: `sql` or `rq+redis://...`; by default RQ when REDIS_URL is set, else `sql`",
    )
    events: str | None = Field(
        None, description="Event log: `sql` or `redis://...`; by default where the queue is"
    )
    embedder: str = Field(
        "minilm",
        description="Embedder: `minilm`, `none` (keyword search alone) or `python:module:Class`",
    )
    index: str = Field("faiss", description="Vector index: `faiss` or `python:module:Class`")
    host: str = Field(
        "127.0.0.1",
        description="Address that `serve` binds; another than loopback needs an API key",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = Field(
        (),
        description="Names of Host, by commas, that a server without API keys answers to, besides this host's own",
    )
    port: int = Field(
        8000, ge=0, le=65535, description="Port that `serve` binds; 0 picks a free one"
    )
    concurrency: int = Field(
        200, ge=1, le=5000, description="Chat jobs that one worker process runs at once"
    )
    background_concurrency: int = Field(
        2,
        ge=1,
        le=100,
        description="Other jobs (ingest, delete) that one worker process runs at once",
    )
    processes: int = Field(1, ge=1, le=256, description="Worker processes of `ragqueue worker`")
    lease: float = Field(
        10.0,
        ge=1,
        le=600,
        description="Seconds after which a silent worker's jobs are claimable again",
    )
    beat: float = Field(
        3.0,
        ge=0.1,
        le=200,
        description="Seconds between renewals of the leases; at most a third of the lease",
    )
    drain: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="Seconds that a worker that is asked to end lets its jobs run",
    )
    chat_deadline: float = Field(
        600.0, ge=1, description="Seconds after which a question that is not answered fails"
    )
    other_deadline: float = Field(
        3600.0, ge=1, description="Seconds after which any other job fails"
    )
    lane_bound: int = Field(
        20_000, ge=1, description="Jobs of a lane that may wait, of all tenants"
    )
    tenant_bound: int = Field(
        5_000, ge=1, description="Jobs of a lane that may wait, of one tenant"
    )
    streams: int = Field(
        1_000, ge=1, description="Event streams that one caller may hold open in one process"
    )
    keep_events: float = Field(
        600.0, ge=0, description="Seconds that the event log of an ended job is kept"
    )
    keep_jobs: float = Field(
        30 * 86_400.0,
        ge=0,
        description="Seconds that an ended job, its answer and a replaced text are kept",
    )
    limit: int = Field(
        20,
        ge=1,
        le=50,
        description="Most passages that an answer is written from; RAGQUEUE_CONTEXT bounds them, too",
    )
    context: int = Field(
        3000, ge=200, description="Tokens of passages in a prompt, filled best first"
    )
    system_prompt: str | None = Field(
        None, description="System text of the prompt; by default the one that ships"
    )
    model_continues: bool = Field(
        False,
        description="Whether the model can continue a half-written answer (vLLM, llama.cpp, prefill)",
    )
    max_question: int = Field(8_000, ge=1, description="Characters of a question")
    max_upload: int = Field(50_000_000, ge=1, description="Bytes of an uploaded document")
    parse_seconds: float = Field(
        60.0, ge=1, description="Seconds that a parser may take for one document"
    )
    parse_memory: int = Field(
        1_500_000_000, ge=100_000_000, description="Bytes of memory that a parser may use (POSIX)"
    )
    allow_old_sqlite: bool = Field(
        False, description="Accept a SQLite that can corrupt a file which two processes write"
    )
    log_level: str = Field(
        "INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Least level that is logged"
    )
    log_format: str = Field(
        "auto",
        pattern="^(auto|json|text)$",
        description="`json`, `text`, or `auto`: text on a terminal",
    )

    @property
    def queue_url(self) -> str:
        """The queue engine's URL, with the defaults resolved."""
        wanted = self.queue or ("rq" if self.redis_url else "sql")
        return f"rq+{self.redis_url or 'redis://localhost:6379'}" if wanted == "rq" else wanted

    @property
    def events_url(self) -> str:
        """The event log's URL, with the defaults resolved."""
        return self.events or (
            "sql" if self.queue_url.startswith("sql") else self.queue_url.removeprefix("rq+")
        )

    @property
    def model(self) -> tuple[str, str]:
        """(kind, name) of the model."""
        kind, colon, name = self.llm_model.partition(":")
        if kind in ("extractive", "scripted") or (colon and kind in ("openai", "python")):
            return kind, name
        return "openai", self.llm_model


ENV_NAMES = {
    field: said.alias or PREFIX + field.upper() for field, said in Settings.model_fields.items()
}
_FIELDS = {name: field for field, name in ENV_NAMES.items()}


def load(flags: Mapping[str, Any] | None = None) -> tuple[Settings, dict[str, str]]:
    """Return the settings, and where each value came from. Raises ConfigError that names the setting, its value and what is allowed."""
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    try:
        for origin, given in _sources(flags or {}):
            for name, value in given.items():
                if (field := _FIELDS.get(name, name)) not in values:
                    values[field], origins[field] = value, origin
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError("; ".join(map(_explain, error.errors()))) from error
    except OSError as error:
        raise ConfigError(f"cannot read the settings: {error}") from error
    if settings.beat > settings.lease / 3 + 1e-9:
        raise ConfigError(
            f"RAGQUEUE_BEAT is {settings.beat}: it must be at most a third of RAGQUEUE_LEASE ({settings.lease})"
        )
    return settings, origins


def _sources(flags: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each origin with what it says, the strongest first."""
    yield "flag", {name: value for name, value in flags.items() if value is not None}
    yield (
        "environment",
        _ours({name: value for name, value in os.environ.items() if name not in OTHER_NAMES}),
    )
    if file := os.environ.get("RAGQUEUE_ENV_FILE", ".env"):
        yield (
            file,
            _ours(
                sources.DotEnvSettingsSource(
                    Settings, env_file=file, env_file_encoding="utf-8"
                ).env_vars
            ),
        )
    if folder := os.environ.get("RAGQUEUE_SECRETS"):
        yield folder, sources.SecretsSettingsSource(Settings, secrets_dir=folder)()
    toml = os.environ.get("RAGQUEUE_CONFIG", "ragqueue.toml")
    yield toml, sources.TomlConfigSettingsSource(Settings, toml_file=toml)()


def _ours(variables: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the variables that are settings, and those that only look like one, which are refused with the rest."""
    return {
        name.upper(): value
        for name, value in variables.items()
        if name.upper() in _FIELDS or name.upper().startswith(PREFIX)
    }


def _explain(item: Any) -> str:
    name = str(item["loc"][0])
    if item["type"] == "extra_forbidden":
        meant = ENV_NAMES.get(name.lower().removeprefix(PREFIX.lower()))
        near = (
            [meant]
            if meant
            else difflib.get_close_matches(
                name.upper(), sorted({*_FIELDS, *OTHER_NAMES} - {name}), 1
            )
        )
        return f"unknown setting {name.upper()}: " + (
            f"did you mean {near[0]}?" if near else "`ragqueue config show` lists the settings"
        )
    shown = "****" if "key" in name.lower() else repr(item.get("input"))
    return f"{ENV_NAMES.get(name, name)} is {shown}: {item['msg'][0].lower()}{item['msg'][1:]}"


def check_model(settings: Settings) -> None:
    """Make sure that the model can be reached at all. Raises ConfigError."""
    kind, name = settings.model
    if kind == "openai" and settings.openai_api_key is None and settings.openai_base_url is None:
        said = f"LLM_MODEL is {settings.llm_model!r}, but neither OPENAI_API_KEY nor OPENAI_BASE_URL says where {name!r} is served: "
        raise ConfigError(
            said + "set one of them, or LLM_MODEL=extractive to answer without a model",
            code="model_not_configured",
        )

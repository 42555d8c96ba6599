"""The only reader of the environment.

Flags go before the environment, then .env, the secrets folder, ragqueue.toml, and the defaults.
What an adapter needs beyond its URL is declared in its own file (`adapters.Option`).
"""

import difflib
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, create_model
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, sources

from ragqueue import adapters
from ragqueue.adapters import Option, Table
from ragqueue.errors import ConfigError

PREFIX = "RAGQUEUE_"
# Names of ours that are no settings: where to read settings from, and a switch of the fault suite.
OTHER_NAMES = ("RAGQUEUE_ENV_FILE", "RAGQUEUE_CONFIG", "RAGQUEUE_SECRETS", "RAGQUEUE_MUTANT")
MODELS = (
    "Model that writes the answers: `extractive`, `openai:NAME` or a bare NAME, `scripted:...`, "
    "`python:module:Class`"
)


def _names(value: object) -> object:
    """Return the names of a list that is written with commas."""
    if not isinstance(value, str):
        return value
    return tuple(name.strip() for name in value.split(",") if name.strip())


class Settings(BaseSettings):
    """Every setting but the adapters' own; business code is given values, never this object."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", populate_by_name=True
    )

    redis_url: str | None = Field(
        None, alias="REDIS_URL", description="Redis server; when set, the queue is RQ on it"
    )
    database_url: str | None = Field(
        None,
        description=(
            "Where the records are kept: postgresql://user:password@host/database for many hosts; "
            "by default a file in RAGQUEUE_DATA"
        ),
    )
    vector_db_path: Path = Field(
        Path("./vector_store"),
        alias="VECTOR_DB_PATH",
        description="Folder of this host's vector replicas",
    )
    llm_model: str = Field("extractive", alias="LLM_MODEL", description=MODELS)

    data: Path = Field(Path("./ragqueue-data"), description="Folder of the database")
    queue: str | None = Field(
        None,
        description=(
            "Queue engine: `sql` or `rq+redis://...`; by default RQ when REDIS_URL is set, "
            "else `sql`"
        ),
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
        description=(
            "Names of Host, by commas, that a server without API keys answers to, "
            "besides this host's own"
        ),
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
        description=(
            "Most passages that an answer is written from; RAGQUEUE_CONTEXT bounds them, too"
        ),
    )
    context: int = Field(
        3000, ge=200, description="Tokens of passages in a prompt, filled best first"
    )
    system_prompt: str | None = Field(
        None, description="System text of the prompt; by default the one that ships"
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

    declared: ClassVar[tuple[tuple[str, Option], ...]] = ()  # what adapters added to the class

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a spawned worker process be given them: it makes the same class again."""
        return _again, (self.declared, dict(self))

    @property
    def queue_url(self) -> str:
        """The queue engine's URL, with the defaults resolved."""
        engine = self.queue or ("rq" if self.redis_url else "sql")
        if engine == "rq":
            return f"rq+{self.redis_url or 'redis://localhost:6379'}"
        return engine

    def options(self, table: Table, url: str) -> dict[str, Any]:
        """Return the values of the options of the adapter that `url` names, by their names."""
        values = {}
        for name in adapters.options_named(table, url):
            value = getattr(self, name.lower())
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            values[name] = value
        return values


def whole(options: Mapping[str, Option] | None = None) -> type[Settings]:
    """Return the settings with those of adapters: by default of all of ours."""
    if options is None:
        options = adapters.options_of_all()
    return _whole(tuple(options.items()))


@cache
def _whole(options: tuple[tuple[str, Option], ...]) -> type[Settings]:
    fields: dict[str, Any] = {}
    for name, option in options:
        kind = _type_of(option)
        fields[name.lower()] = (kind, Field(option.default, alias=name, description=option.help))
    model = create_model("Settings", __base__=Settings, **fields)
    model.declared = options
    return model


def _again(declared: tuple[tuple[str, Option], ...], values: dict[str, Any]) -> Settings:
    return _whole(declared).model_construct(**values)


def _type_of(option: Option) -> Any:
    if option.secret:
        return SecretStr | None
    if option.default is None:
        return str | None
    return type(option.default)


def env_names(settings: type[Settings]) -> dict[str, str]:
    """Return {field: its name in the environment}."""
    return {
        field: info.alias or PREFIX + field.upper() for field, info in settings.model_fields.items()
    }


def load(flags: Mapping[str, Any] | None = None) -> tuple[Settings, dict[str, str]]:
    """Return the settings, and where each value came from.

    Raises ConfigError that names the setting, its value and what is allowed.
    """
    options = adapters.options_of_all()
    try:
        values, origins = _collect(whole(options), flags or {})
        of_users = _options_of_users(values)
        if of_users:  # an adapter of a user's own declares some, too
            options |= of_users
            values, origins = _collect(whole(options), flags or {})
        model = whole(options)
        settings = model(**values)
    except ValidationError as error:
        names = env_names(whole(options))
        raise ConfigError("; ".join(_explain(item, names) for item in error.errors())) from error
    except OSError as error:
        raise ConfigError(f"cannot read the settings: {error}") from error
    if settings.beat > settings.lease / 3 + 1e-9:
        raise ConfigError(
            f"RAGQUEUE_BEAT is {settings.beat}: "
            f"it must be at most a third of RAGQUEUE_LEASE ({settings.lease})"
        )
    return settings, dict.fromkeys(model.model_fields, "default") | origins


def _options_of_users(values: Mapping[str, Any]) -> dict[str, Option]:
    """Return the options of the adapters of a user's own that these values name."""
    options: dict[str, Option] = {}
    for value in values.values():
        if isinstance(value, str) and value.startswith(adapters.PYTHON):
            options |= adapters.options_of(value.removeprefix(adapters.PYTHON).partition(":")[0])
    return options


def _collect(
    model: type[Settings], flags: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values by field, and where each came from; the strongest origin counts."""
    field_of = {name: field for field, name in env_names(model).items()}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, named in _sources(model, flags):
        for name, value in named.items():
            field = field_of.get(name, name)
            if field not in values:
                values[field] = value
                origins[field] = origin
    return values, origins


def _sources(
    model: type[Settings], flags: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each origin with what it says, the strongest first."""
    yield "flag", {name: value for name, value in flags.items() if value is not None}
    environment = {name: value for name, value in os.environ.items() if name not in OTHER_NAMES}
    yield "environment", _ours(model, environment)
    file = os.environ.get("RAGQUEUE_ENV_FILE", ".env")
    if file:
        source = sources.DotEnvSettingsSource(model, env_file=file, env_file_encoding="utf-8")
        yield file, _ours(model, source.env_vars)
    folder = os.environ.get("RAGQUEUE_SECRETS")
    if folder:
        yield folder, sources.SecretsSettingsSource(model, secrets_dir=folder)()
    toml = os.environ.get("RAGQUEUE_CONFIG", "ragqueue.toml")
    yield toml, sources.TomlConfigSettingsSource(model, toml_file=toml)()


def _ours(model: type[Settings], variables: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the variables that are settings, and those that only look like one.

    The latter are refused with the rest.
    """
    known = set(env_names(model).values())
    return {
        name.upper(): value
        for name, value in variables.items()
        if name.upper() in known or name.upper().startswith(PREFIX)
    }


def _explain(item: Any, names: Mapping[str, str]) -> str:
    """Say what is wrong with one value; `names`: {field: name in the environment}."""
    name = str(item["loc"][0])
    if item["type"] == "extra_forbidden":
        return _unknown(name, names)
    value = "****" if "key" in name.lower() else repr(item.get("input"))
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"{names.get(name, name)} is {value}: {message}"


def _unknown(name: str, names: Mapping[str, str]) -> str:
    meant = names.get(name.lower().removeprefix(PREFIX.lower()))
    near = [meant] if meant else []
    if not near:
        candidates = sorted({*names.values(), *OTHER_NAMES} - {name})
        near = difflib.get_close_matches(name.upper(), candidates, 1)
    if near:
        return f"unknown setting {name.upper()}: did you mean {near[0]}?"
    return f"unknown setting {name.upper()}: `ragqueue config show` lists the settings"


def check_model(settings: Settings) -> None:
    """Make sure that the model can be reached at all, as far as the settings say.

    Raises ConfigError.
    """
    url = settings.llm_model
    adapters.check_options(adapters.GENERATORS, url, settings.options(adapters.GENERATORS, url))

"""Find the adapter for a name: tables of import strings, so that only what is used is imported."""

import pkgutil
import re
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from ragqueue.errors import ConfigError, without_password

T = TypeVar("T")
# name -> (module:Class, the extra that brings its packages)
QUEUES = {"sql": ("ragqueue.queues.sql:SqlQueue", ""), "rq": ("ragqueue.queues.rq:RQQueue", "rq")}
_REDIS = ("ragqueue.events.redis:RedisEventLog", "rq")
EVENTS = {
    "sql": ("ragqueue.events.sql:SqlEventLog", ""),
    "redis": _REDIS,
    "rediss": _REDIS,
    "unix": _REDIS,
}
INDEXES = {"faiss": ("ragqueue.indexes.faiss:FaissIndex", "")}
EMBEDDERS = {"minilm": ("ragqueue.embedders.minilm:MiniLMEmbedder", "")}
GENERATORS = {
    "extractive": ("ragqueue.generators.extractive:ExtractiveGenerator", ""),
    "openai": ("ragqueue.generators.openai:OpenAIGenerator", ""),
    "scripted": ("ragqueue.generators.scripted:ScriptedGenerator", ""),
}


def load(port: type[T], table: Mapping[str, tuple[str, str]], name: str) -> Callable[..., T]:
    """Return the class of a row of the table, or of `python:package.module:Class`. Raises ConfigError for what cannot be imported."""
    kind = f"{port.__name__} {name!r}"
    if name not in table and not name.startswith("python:"):
        raise ConfigError(
            f"unknown {kind}: use one of {', '.join(sorted(table))}, or python:package.module:Class"
        )
    target, extra = table.get(name, (name.removeprefix("python:"), ""))
    try:
        return cast(Callable[..., T], pkgutil.resolve_name(target))
    except (ImportError, AttributeError, ValueError) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if not extra or missing is None or missing.startswith("ragqueue"):
            raise ConfigError(f"cannot import the {kind}: {error}") from error
        said = (
            f"the {kind} needs {missing!r}, which is not installed: pip install 'ragqueue[{extra}]'"
        )
        raise ConfigError(said, code="missing_extra") from error


def by_url(port: type[T], table: Mapping[str, tuple[str, str]], url: str, *given: object) -> T:
    """Return the adapter that a URL names by its scheme, built of the URL or of what is given. Raises ConfigError."""
    name = url if url.startswith("python:") else re.split("[+:]", url)[0]
    build = load(port, table, name)
    try:
        return build(*(given or [url]))
    except ValueError:
        if name not in table:  # not ours to explain
            raise
    shown, setting = (
        without_password(url.removeprefix("rq+")),
        "REDIS_URL (or RAGQUEUE_QUEUE, RAGQUEUE_EVENTS)",
    )
    wanted = "redis://user:password@host:6379/0, with every sign of a password that is no letter or digit as %40"
    # Outside of the handler: what the client says quotes the URL, and no traceback shall show it.
    raise ConfigError(f"{setting} is {shown!r}: it should look like {wanted}")

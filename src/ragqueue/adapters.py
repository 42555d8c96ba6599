"""Find the adapter for a name: tables of import strings, so that only what is used is imported."""

import pkgutil
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from ragqueue.errors import ConfigError

T = TypeVar("T")
# name -> (module:Class, the extra that brings its packages)
QUEUES = {"sql": ("ragqueue.queues.sql:SqlQueue", ""), "rq": ("ragqueue.queues.rq:RQQueue", "rq")}
_REDIS = ("ragqueue.events.redis:RedisEventLog", "rq")
EVENTS = {"sql": ("ragqueue.events.sql:SqlEventLog", ""), "redis": _REDIS, "rediss": _REDIS, "unix": _REDIS}
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
        raise ConfigError(f"unknown {kind}: use one of {', '.join(sorted(table))}, or python:package.module:Class")
    target, extra = table.get(name, (name.removeprefix("python:"), ""))
    try:
        return cast(Callable[..., T], pkgutil.resolve_name(target))
    except (ImportError, AttributeError, ValueError) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if not extra or missing is None or missing.startswith("ragqueue"):
            raise ConfigError(f"cannot import the {kind}: {error}") from error
        said = f"the {kind} needs {missing!r}, which is not installed: pip install 'ragqueue[{extra}]'"
        raise ConfigError(said, code="missing_extra") from error

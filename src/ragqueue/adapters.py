"""Find the adapter for a name: tables of import strings, so that only what is used is imported."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ragqueue.errors import ConfigError, MissingExtra


@dataclass(frozen=True, slots=True)
class Adapter:
    """Where a class lives and which extra brings its packages."""

    target: str  # "module:Class"
    extra: str | None = None


QUEUES = {
    "sql": Adapter("ragqueue.queues.sql:SqlQueue"),
    "rq": Adapter("ragqueue.queues.rq:RQQueue", extra="rq"),
}
EVENTS = {
    "sql": Adapter("ragqueue.events.sql:SqlEventLog"),
    "redis": Adapter("ragqueue.events.redis:RedisEventLog", extra="rq"),
}
INDEXES = {"faiss": Adapter("ragqueue.indexes.faiss:FaissIndex")}
EMBEDDERS = {"minilm": Adapter("ragqueue.embedders.minilm:MiniLMEmbedder")}
GENERATORS = {
    "extractive": Adapter("ragqueue.generators.extractive:ExtractiveGenerator"),
    "openai": Adapter("ragqueue.generators.openai:OpenAIGenerator"),
    "scripted": Adapter("ragqueue.generators.scripted:ScriptedGenerator"),
}


def load(port: str, table: Mapping[str, Adapter], name: str) -> Any:
    """Return the class that `name` stands for: a row of the table, or `python:package.module:Class`.

    Raises ConfigError for an unknown name, MissingExtra when its packages are not installed.
    """
    if name.startswith("python:"):
        return _import(port, name, Adapter(name.removeprefix("python:")))
    if name not in table:
        raise ConfigError(f"unknown {port} {name!r}: use one of {', '.join(sorted(table))}, or python:package.module:Class")
    return _import(port, name, table[name])


def _import(port: str, name: str, adapter: Adapter) -> Any:
    module_name, _, class_name = adapter.target.partition(":")
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        if adapter.extra is None or (error.name or "").startswith("ragqueue"):
            raise ConfigError(f"cannot import the {port} {name!r}: {error}") from error
        raise MissingExtra(
            f"the {port} {name!r} needs {error.name!r}, which is not installed: pip install 'ragqueue[{adapter.extra}]'"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"the {port} {name!r} names {class_name!r}, which is not in {module_name}") from error

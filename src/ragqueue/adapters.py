"""Which adapters there are, what each needs, and how one is opened; only what is used is imported.

An adapter's file ends with `def open(given: Given)`. What it needs beyond its URL stands in its
constant OPTIONS, which is read from its source: its SDK need not be installed.
"""

import ast
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from ragqueue.errors import ConfigError

if TYPE_CHECKING:
    from ragqueue.language.evidence import Embed
    from ragqueue.records.store import Records

PYTHON = "python:"  # what the name of an adapter of a user's own begins with
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Option:
    """A setting of an adapter's own."""

    help: str
    default: bool | int | float | str | None = None
    secret: bool = False
    one_of: str = ""  # of the options with this word at least one must be set


class Row(NamedTuple):
    """Where an adapter is, and the extra that brings its packages."""

    module: str
    extra: str = ""


class Table(NamedTuple):
    """The adapters of a port."""

    setting: str  # that names one
    rows: Mapping[str, Row]
    other: str = ""  # the row for a name that is no row: the bare name of a model


@dataclass(frozen=True, slots=True)
class Given:
    """What an adapter is opened with; each takes what it needs."""

    url: str  # what the setting says
    name: str = ""  # of it, what follows the adapter's own name
    options: Mapping[str, Any] = field(default_factory=dict)  # the values of its OPTIONS
    records: "Records | None" = None
    folder: Path = Path()  # of what this host keeps for itself
    at_once: int = 1  # calls that may go on at once
    embed: "Embed | None" = None  # None where there is no embedder
    languages: Collection[str] | None = None  # that `embed` speaks; None: all


QUEUES = Table(
    "RAGQUEUE_QUEUE",
    {
        "sql": Row("ragqueue.queues.sql"),
        "rq": Row("ragqueue.queues.rq", extra="rq"),
    },
)
EVENTS = Table(
    "RAGQUEUE_EVENTS",
    {
        "sql": Row("ragqueue.events.sql"),
        "redis": Row("ragqueue.events.redis", extra="rq"),
        "rediss": Row("ragqueue.events.redis", extra="rq"),
        "unix": Row("ragqueue.events.redis", extra="rq"),
    },
)
INDEXES = Table("RAGQUEUE_INDEX", {"faiss": Row("ragqueue.indexes.faiss")})
EMBEDDERS = Table("RAGQUEUE_EMBEDDER", {"minilm": Row("ragqueue.embedders.minilm")})
GENERATORS = Table(
    "LLM_MODEL",
    {
        "extractive": Row("ragqueue.generators.extractive"),
        "openai": Row("ragqueue.generators.openai"),
        "scripted": Row("ragqueue.generators.scripted"),
    },
    other="openai",
)
TABLES = (QUEUES, EVENTS, INDEXES, EMBEDDERS, GENERATORS)


def open_adapter(port: type[T], table: Table, given: Given) -> T:
    """Return the adapter that a setting names. Raises ConfigError.

    `python:package.module:Class` is called with what is given, as the `open` of ours are.
    """
    opener, name = _opener(port, table, given.url)
    _check_takes_given(opener, given)
    adapter = opener(replace(given, name=name))
    if not isinstance(adapter, port):
        kind = type(adapter).__name__
        raise ConfigError(f"{table.setting} is {given.url!r}: {kind} is no {port.__name__}")
    return adapter


def _check_takes_given(opener: Callable[[Given], object], given: Given) -> None:
    """Raise ConfigError when an adapter of a user's own cannot be called with what is given."""
    try:
        inspect.signature(opener).bind(given)
    except TypeError as error:
        raise ConfigError(
            f"{given.url!r} must take one argument, a ragqueue.adapters.Given: {error}"
        ) from error


def _opener(port: type[T], table: Table, url: str) -> tuple[Callable[[Given], T], str]:
    """Return what opens an adapter, and what its setting says besides. Raises ConfigError."""
    what = f"{port.__name__} {url!r}"
    if url.startswith(PYTHON):
        return cast(Callable[[Given], T], _resolve(url.removeprefix(PYTHON), what, "")), ""
    row, name = row_of(table, url)
    if row is None:
        allowed = ", ".join(sorted(table.rows))
        raise ConfigError(f"unknown {what}: use one of {allowed}, or python:package.module:Class")
    return cast(Callable[[Given], T], _resolve(f"{row.module}:open", what, row.extra)), name


def row_of(table: Table, url: str) -> tuple[Row | None, str]:
    """Return the row that a setting names, and what the setting says besides."""
    scheme, _, rest = url.partition(":")
    first = re.split("[+:]", url)[0]
    if first in table.rows:
        return table.rows[first], rest if first == scheme else url.removeprefix(f"{first}+")
    if table.other:
        return table.rows[table.other], url
    return None, ""


def _resolve(target: str, what: str, extra: str) -> Any:
    try:
        return pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if not extra or missing is None or missing.startswith("ragqueue"):
            raise ConfigError(f"cannot import the {what}: {error}") from error
        raise ConfigError(
            f"the {what} needs {missing!r}, which is not installed: "
            f"pip install 'ragqueue[{extra}]'",
            code="missing_extra",
        ) from error


def options_of_all() -> dict[str, Option]:
    """Return the options of every adapter of ours, by the names of their settings."""
    options: dict[str, Option] = {}
    for table in TABLES:
        for row in table.rows.values():
            options |= options_of(row.module)
    return options


def options_named(table: Table, url: str) -> dict[str, Option]:
    """Return the options of the adapter that a setting names."""
    if url.startswith(PYTHON):
        return options_of(url.removeprefix(PYTHON).partition(":")[0])
    row, _ = row_of(table, url)
    return {} if row is None else options_of(row.module)


@cache
def options_of(module: str) -> dict[str, Option]:
    """Return the OPTIONS that a module's source declares; the module is not imported."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return {}  # opening it says what is wrong
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return {}
    source = Path(spec.origin).read_text(encoding="utf-8")
    if "OPTIONS" not in source:
        return {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and _is_options(statement.targets[0]):
            return _declared(module, statement.value)
    return {}


def _is_options(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and target.id == "OPTIONS"


def _declared(module: str, value: ast.expr) -> dict[str, Option]:
    """Return the options of `{"NAME": Option(...), ...}`: literals, no code is run."""
    try:
        if not isinstance(value, ast.Dict):
            raise ValueError("not a dict")
        options = {}
        for key, call in zip(value.keys, value.values, strict=True):
            if key is None or not isinstance(call, ast.Call):
                raise ValueError("not Option(...)")
            args = [ast.literal_eval(arg) for arg in call.args]
            kwargs = {word.arg or "": ast.literal_eval(word.value) for word in call.keywords}
            options[str(ast.literal_eval(key))] = Option(*args, **kwargs)
    except (ValueError, TypeError) as error:
        wanted = '{"NAME": Option("what it says", ...)} of literals'
        raise ConfigError(f"OPTIONS of {module} must be {wanted}: {error}") from error
    return options


def check_options(table: Table, url: str, values: Mapping[str, Any]) -> None:
    """Raise ConfigError when none is set of options of which one is needed."""
    groups: dict[str, list[str]] = {}
    for name, option in options_named(table, url).items():
        if option.one_of:
            groups.setdefault(option.one_of, []).append(name)
    for word, names in groups.items():
        if all(values.get(name) is None for name in names):
            raise ConfigError(
                f"{table.setting} is {url!r}, but neither {' nor '.join(names)} says {word}: "
                f"set one of them{_WITHOUT.get(table.setting, '')}",
                code=_CODES.get(table.setting, ""),
            )


_WITHOUT = {"LLM_MODEL": ", or LLM_MODEL=extractive to answer without a model"}
_CODES = {"LLM_MODEL": "model_not_configured"}

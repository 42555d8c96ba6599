"""`doctor` and `config`: what is set, what answers, what is missing, and the line that mends it."""

import asyncio
import importlib.util
import platform
import sys
from collections.abc import Callable
from typing import Any

import click

from ragqueue.cli.output import data_option, json_option, prepare, print_json, print_table
from ragqueue.errors import RagqueueError
from ragqueue.settings import Loaded, Settings, check_model, env_name

Check = tuple[str, str, str]  # part, "ok" | "note" | "fault", what is so and what mends it


@click.command()
@data_option
@json_option
def doctor(data: str | None, as_json: bool) -> None:
    """Check every part and say what mends it; status 1 when something is wrong."""
    loaded = prepare({"data": data}, quiet=True)
    checks = asyncio.run(examine(loaded))
    if as_json:
        print_json({"checks": [{"part": part, "state": state, "text": text} for part, state, text in checks]})
    else:
        print_table(("part", "state", "what"), checks)
    if any(state == "fault" for _, state, _ in checks):
        sys.exit(1)


async def examine(loaded: Loaded) -> list[Check]:
    """Return the findings of every check."""
    settings = loaded.settings
    origins = sorted({origin for origin in loaded.origins.values() if origin != "default"})
    checks: list[Check] = [("settings", "ok", "read from " + (", ".join(origins) or "defaults"))]
    checks.append(_said("model", lambda: check_model(settings), f"{settings.llm_model}"))
    checks += [_sqlite(settings), _parsers(), _extra(settings), *_platform(settings)]
    checks += await _runtime(settings)
    return checks


def _said(part: str, check: Callable[[], Any], ok: str) -> Check:
    try:
        check()
    except RagqueueError as error:
        return part, "fault", error.message
    return part, "ok", ok


def _sqlite(settings: Settings) -> Check:
    from ragqueue.records.store import sqlite_is_safe, sqlite_module

    version = f"SQLite {sqlite_module.sqlite_version} ({sqlite_module.__name__})"
    if sqlite_is_safe():
        return "database", "ok", version
    how = "fault" if settings.queue_url != "sql" else "note"
    return "database", how, f"{version} can corrupt a file that two processes write: use a newer Python, or RAGQUEUE_ALLOW_OLD_SQLITE=1"


def _parsers() -> Check:
    from ragqueue.parsers.pool import isolation

    return "parsers", "ok", f"run in child processes: {isolation()}"


def _extra(settings: Settings) -> Check:
    if settings.queue_url == "sql":
        return "queue", "ok", "sql: the jobs table itself"
    missing = [name for name in ("rq", "redis") if importlib.util.find_spec(name) is None]
    if missing:
        return "queue", "fault", f"{', '.join(missing)} not installed: pip install 'ragqueue[rq]'"
    return "queue", "ok", settings.queue_url.partition("@")[2] or settings.queue_url


def _platform(settings: Settings) -> list[Check]:
    system = platform.system()
    if settings.queue_url == "sql" or system == "Linux":
        return []
    if system == "Windows":
        return [
            ("RQ", "note", "RQ's own Worker needs fork() and fails here with AttributeError: use `ragqueue worker`, or rq.SimpleWorker")
        ]
    return [("RQ", "note", "RQ's own Worker may need OBJC_DISABLE_INITIALIZE_FORK_SAFETY=YES here; `ragqueue worker` does not")]


async def _runtime(settings: Settings) -> list[Check]:
    """Open everything once, as a server would."""
    from ragqueue.records import documents, workers
    from ragqueue.wiring import open_runtime

    if settings.model[0] == "openai" and settings.openai_api_key is None and settings.openai_base_url is None:
        settings = settings.model_copy(update={"llm_model": "extractive"})  # its fault is reported already
    try:
        async with open_runtime(settings) as runtime:
            depth = await runtime.queue.depth("chat")
            await runtime.log.read({"-": 0})
            alive = await runtime.records.read(workers.alive, 2 * settings.lease)
            languages = await runtime.records.read(documents.languages, "default")
            checks: list[Check] = [("broker and log", "ok", f"answer; {depth} chat jobs wait")]
            if alive:
                checks.append(("workers", "ok", f"{len(alive)} beat"))
            else:
                fix = "`ragqueue serve` runs one inside" if settings.queue_url == "sql" else "start `ragqueue worker`"
                checks.append(("workers", "note", f"none beats: {fix}"))
            return [*checks, *_embedder(runtime.embedder, languages)]
    except RagqueueError as error:
        return [("start", "fault", f"{error.message} [{error.code}]")]


def _embedder(embedder: Any, languages: dict[str, int]) -> list[Check]:
    if embedder is None:
        return [("embedder", "note", "none: keyword search alone (RAGQUEUE_EMBEDDER=minilm adds vectors)")]
    foreign = sorted(set(languages) - embedder.languages) if embedder.languages is not None else []
    if foreign:
        text = f"{embedder.name} speaks {', '.join(sorted(embedder.languages))}, but there are documents in {', '.join(foreign)}: keywords carry those"
        return [("embedder", "note", text)]
    return [("embedder", "ok", embedder.name)]


@click.group()
def config() -> None:
    """Show the settings and where they come from."""


@config.command("show")
@click.option("--origin", is_flag=True, help="Show where each value comes from")
@data_option
@json_option
def config_show(origin: bool, data: str | None, as_json: bool) -> None:
    """Print the settings in effect; secrets are hidden."""
    loaded = prepare({"data": data}, quiet=True)
    rows = [(env_name(name), _shown(getattr(loaded.settings, name)), loaded.origins[name]) for name in Settings.model_fields]
    if as_json:
        print_json({name: {"value": value, "origin": source} if origin else value for name, value, source in rows})
    else:
        print_table(("setting", "value", "origin") if origin else ("setting", "value"), [row if origin else row[:2] for row in rows])


def _shown(value: Any) -> Any:
    """Return a value for print, without a secret or the password of a URL."""
    text = str(value)
    if "://" in text and "@" in text:
        scheme, _, rest = text.partition("://")
        return f"{scheme}://****@{rest.rpartition('@')[2]}"
    return value if isinstance(value, int | float | bool | type(None)) else text

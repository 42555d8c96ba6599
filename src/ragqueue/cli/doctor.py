"""`doctor` and `config`: what is set, what answers, what is missing, and the line that mends it."""

import importlib.util
import platform
import re
import sys
from typing import Any

import click

from ragqueue.cli.command import Call, Command, address
from ragqueue.errors import RagqueueError
from ragqueue.settings import Settings, check_model, env_name

Check = tuple[str, str, str]  # part, "ok" | "note" | "fault", what is so and what mends it

_WINDOWS = "RQ's own Worker needs fork() and fails here with AttributeError: use `ragqueue worker`, or rq.SimpleWorker"
_MACOS = "RQ's own Worker may need OBJC_DISABLE_INITIALIZE_FORK_SAFETY=YES here; `ragqueue worker` does not"


@click.command(cls=Command)
async def doctor(call: Call) -> None:
    """Check every part and say what mends it; status 1 when something is wrong."""
    origins = sorted(set(call.loaded.origins.values()) - {"default"})
    checks = [("settings", "ok", "read from " + (", ".join(origins) or "defaults")), *await examine(call.loaded.settings)]
    found = [{"part": part, "state": state, "text": text} for part, state, text in checks]
    call.show({"checks": found}, ("part", "state", "what"), checks)
    if any(state == "fault" for _, state, _ in checks):
        sys.exit(1)


async def examine(settings: Settings) -> list[Check]:
    """Return the findings of every check."""
    from ragqueue.parsers.pool import isolation  # here: `config show` needs none of it

    model: Check = ("model", "ok", settings.llm_model)
    opened = settings
    try:
        check_model(settings)
    except RagqueueError as error:
        model = ("model", "fault", error.message)
        opened = settings.model_copy(update={"llm_model": "extractive"})  # its fault is reported already
    checks = [model, _sqlite(settings), ("parsers", "ok", f"run in child processes: {isolation()}"), _queue(settings)]
    system = platform.system()
    if settings.queue_url != "sql" and system != "Linux":
        checks.append(("RQ", "note", _WINDOWS if system == "Windows" else _MACOS))
    return [*checks, *await _runtime(opened)]


def _sqlite(settings: Settings) -> Check:
    from ragqueue.records.store import sqlite_is_safe, sqlite_module

    version = f"SQLite {sqlite_module.sqlite_version} ({sqlite_module.__name__})"
    if sqlite_is_safe():
        return "database", "ok", version
    how = "fault" if settings.queue_url != "sql" else "note"
    return "database", how, f"{version} can corrupt a file that two processes write: use a newer Python, or RAGQUEUE_ALLOW_OLD_SQLITE=1"


def _queue(settings: Settings) -> Check:
    if settings.queue_url == "sql":
        return "queue", "ok", "sql: the jobs table itself"
    missing = [name for name in ("rq", "redis") if importlib.util.find_spec(name) is None]
    if missing:
        return "queue", "fault", f"{', '.join(missing)} not installed: pip install 'ragqueue[rq]'"
    return "queue", "ok", address(settings.queue_url)


async def _runtime(settings: Settings) -> list[Check]:
    """Open everything once, as a server would."""
    from ragqueue.records import documents, workers
    from ragqueue.wiring import open_runtime

    try:
        async with open_runtime(settings) as runtime:
            depth = await runtime.queue.depth("chat")
            await runtime.log.read({"-": 0})
            alive = await runtime.records.read(workers.alive, 2 * settings.lease)
            languages = await runtime.records.read(documents.languages, "default")
    except RagqueueError as error:
        return [("start", "fault", f"{error.message} [{error.code}]")]
    fix = "`ragqueue serve` runs one inside" if settings.queue_url == "sql" else "start `ragqueue worker`"
    beating: Check = ("workers", "ok", f"{len(alive)} beat") if alive else ("workers", "note", f"none beats: {fix}")
    return [("broker and log", "ok", f"answer; {depth} chat jobs wait"), beating, _embedder(runtime.embedder, languages)]


def _embedder(embedder: Any, languages: dict[str, int]) -> Check:
    if embedder is None:
        return "embedder", "note", "none: keyword search alone (RAGQUEUE_EMBEDDER=minilm adds vectors)"
    foreign = sorted(set(languages) - embedder.languages) if embedder.languages is not None else []
    if not foreign:
        return "embedder", "ok", embedder.name
    spoken = f"{embedder.name} speaks {', '.join(sorted(embedder.languages))}"
    return "embedder", "note", f"{spoken}, but there are documents in {', '.join(foreign)}: keywords carry those"


config = click.Group("config", help="Show the settings and where they come from.")


@config.command("show", cls=Command)
@click.option("--origin", is_flag=True, help="Show where each value comes from")
async def config_show(call: Call, origin: bool) -> None:
    """Print the settings in effect; secrets are hidden."""
    values = {env_name(name): _shown(getattr(call.loaded.settings, name)) for name in Settings.model_fields}
    if not origin:
        call.show(values, ("setting", "value"))
        return
    rows = [(env_name(name), values[env_name(name)], source) for name, source in call.loaded.origins.items()]
    call.show({name: {"value": value, "origin": source} for name, value, source in rows}, ("setting", "value", "origin"), rows)


def _shown(value: Any) -> Any:
    """Return a value for print, without a secret or the password of a URL."""
    if isinstance(value, int | float | bool | type(None)):
        return value
    return re.sub("://.*@", "://****@", str(value), flags=re.DOTALL)

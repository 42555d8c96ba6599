"""Look at every part of the deployment and say what mends it."""

import sys
from typing import Literal, NamedTuple

from ragqueue.cli.call import Call
from ragqueue.errors import RagqueueError, without_password
from ragqueue.parsers.pool import isolation
from ragqueue.records import documents, sqlite, workers
from ragqueue.settings import Settings, check_model
from ragqueue.wiring import Runtime, open_runtime


class Check(NamedTuple):
    """What was found of one part."""

    part: str
    state: Literal["ok", "note", "fault"]
    text: str


async def doctor(call: Call) -> None:
    """Look at every part and say what mends it; status 1 when something is wrong."""
    checks = [
        Check("settings", "ok", f"from {', '.join(sorted(set(call.origins.values())))}"),
        Check("queue", "ok", without_password(call.settings.queue_url)),
    ]
    settings = call.settings
    model = check_of_model(settings)
    checks.append(model)
    if model.state == "fault":  # so that the rest is looked at, too
        settings = settings.model_copy(update={"llm_model": "extractive"})
    try:
        isolated = await isolation(settings.parse_memory)
        checks.append(Check("parsers", "ok", f"in children: {isolated}"))
        async with open_runtime(settings) as runtime:  # as a server would
            checks.append(check_of_database(alone=runtime.queue.works_inside))
            checks += await checks_of_brokers(runtime)
            checks.append(await check_of_workers(runtime))
            checks.append(await check_of_embedder(runtime, call.tenant))
    except RagqueueError as error:
        checks.append(Check("start", "fault", f"{error.message} [{error.code}]"))
    call.show({"checks": [check._asdict() for check in checks]})
    sys.exit(any(check.state == "fault" for check in checks))


def check_of_database(*, alone: bool) -> Check:
    """Look at SQLite; `alone`: one process writes to it, as far as the settings say."""
    version = f"SQLite {sqlite.sqlite_module.sqlite_version}"
    if sqlite.is_safe():
        return Check("database", "ok", version)
    risk = (
        "can corrupt a file that two processes write: "
        "use a newer Python, or RAGQUEUE_ALLOW_OLD_SQLITE=1"
    )
    return Check("database", "note" if alone else "fault", f"{version} {risk}")


def check_of_model(settings: Settings) -> Check:
    """Say whether the model can be reached at all, as far as the settings say."""
    try:
        check_model(settings)
    except RagqueueError as error:
        return Check("model", "fault", error.message)
    return Check("model", "ok", settings.llm_model)


async def checks_of_brokers(runtime: Runtime) -> list[Check]:
    """Look at the queue engine and the event log, which may be one Redis. Raises RagqueueError."""
    notes = [*await runtime.queue.check(), *await runtime.log.check()]
    checks = [Check("broker and log", "note", note) for note in dict.fromkeys(notes)]
    if not runtime.queue.works_inside and sys.platform != "linux":
        fork = "RQ's own Worker forks (macOS: OBJC_DISABLE_INITIALIZE_FORK_SAFETY=YES)"
        checks.append(Check("RQ", "note", f"{fork}: use `ragqueue worker`"))
    await runtime.log.read({"-": 0})
    waiting = await runtime.queue.depth("chat")
    checks.append(Check("broker and log", "ok", f"answer; {waiting} chat jobs wait"))
    return checks


async def check_of_workers(runtime: Runtime) -> Check:
    """Say how many worker processes beat."""
    lately = 2 * runtime.settings.lease  # seconds
    beating = len(await runtime.records.read(workers.alive, lately))
    text = f"{beating} beat: `ragqueue worker` starts them, and `ragqueue serve` one with `sql`"
    return Check("workers", "ok" if beating else "note", text)


async def check_of_embedder(runtime: Runtime, tenant: str) -> Check:
    """Say which embedder there is, and which documents it does not speak the language of."""
    embedder = runtime.embedder
    name = "none (RAGQUEUE_EMBEDDER=minilm adds vectors)"
    written = set(await runtime.records.read(documents.counted, tenant))
    spoken: set[str] = set()
    if embedder is not None:
        name = embedder.name
        spoken = set(embedder.languages or written)
    silent = sorted(written - spoken)
    if silent:
        text = f"{name}: documents in {', '.join(silent)} are found by keywords alone"
        return Check("embedder", "note", text)
    return Check("embedder", "note" if embedder is None else "ok", name)

"""Look at every part of the deployment and say what mends it."""

import asyncio
import sys
from typing import TYPE_CHECKING, Literal, NamedTuple

import click

from ragqueue.cli import options
from ragqueue.cli.call import Call
from ragqueue.cli.command import Command
from ragqueue.errors import RagqueueError, without_password

if TYPE_CHECKING:
    from ragqueue.settings import Settings
    from ragqueue.wiring import Runtime


class Check(NamedTuple):
    """What a look at one part says."""

    part: str
    state: Literal["ok", "note", "fault"]
    text: str


@click.command("doctor", cls=Command)
@options.data
@options.json
def doctor(data: str | None, as_json: bool) -> None:
    """Check every part and say what mends it. Status 1 when something is wrong."""
    call = Call({"data": data}, as_json=as_json)
    checks = asyncio.run(check_all(call))
    call.show({"checks": [check._asdict() for check in checks]})
    if any(check.state == "fault" for check in checks):
        sys.exit(1)


async def check_all(call: Call) -> list[Check]:
    """Look at every part: first at what the settings say, then at what starts with them."""
    settings = call.settings
    model = check_of_model(settings)
    checks = [check_of_settings(call.origins), check_of_queue(settings), model]
    if model.state == "fault":  # so that the rest is looked at, too
        settings = settings.model_copy(update={"llm_model": "extractive"})
    try:
        await _check_running(settings, call.tenant, checks)
    except RagqueueError as error:
        checks.append(Check("start", "fault", f"{error.message} [{error.code}]"))
    return checks


async def _check_running(settings: "Settings", tenant: str, checks: list[Check]) -> None:
    """Start everything as a server would, and add what each part says.

    Raises RagqueueError at the first that does not start.
    """
    from ragqueue.wiring import open_runtime

    checks.append(await check_of_parsers(settings))
    async with open_runtime(settings) as runtime:
        checks.append(await check_of_database(runtime))
        checks += await checks_of_brokers(runtime)
        checks.append(await check_of_workers(runtime))
        checks.append(await check_of_embedder(runtime, tenant))


def check_of_settings(origins: dict[str, str]) -> Check:
    """Say where settings come from; `origins`: {setting: origin}."""
    return Check("settings", "ok", f"from {', '.join(sorted(set(origins.values())))}")


def check_of_queue(settings: "Settings") -> Check:
    """Say which queue engine the settings name."""
    return Check("queue", "ok", without_password(settings.queue_url))


def check_of_model(settings: "Settings") -> Check:
    """Say whether the model can be reached at all, as far as the settings say."""
    from ragqueue.settings import check_model

    try:
        check_model(settings)
    except RagqueueError as error:
        return Check("model", "fault", error.message)
    return Check("model", "ok", settings.llm_model)


async def check_of_parsers(settings: "Settings") -> Check:
    """Say what bounds a parser on this machine. Raises Unavailable."""
    from ragqueue.parsers.pool import isolation

    bounds = await isolation(settings.parse_memory)
    return Check("parsers", "ok", f"in children: {bounds}")


async def check_of_database(runtime: "Runtime") -> Check:
    """Look at the database: which it is, and whether several processes may write to it."""
    from ragqueue.records import sqlite

    if not runtime.records.database.is_file:
        version = await runtime.records.read(
            lambda connection: connection.exec_driver_sql("show server_version").scalar_one()
        )
        return Check("database", "ok", f"PostgreSQL {version}")

    version = f"SQLite {sqlite.sqlite_module.sqlite_version}"
    if sqlite.is_safe():
        return Check("database", "ok", version)
    risk = (
        "can corrupt a file that two processes write: "
        "use a newer Python, or RAGQUEUE_ALLOW_OLD_SQLITE=1"
    )
    alone = runtime.queue.works_inside  # as far as the settings say
    return Check("database", "note" if alone else "fault", f"{version} {risk}")


async def checks_of_brokers(runtime: "Runtime") -> list[Check]:
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


async def check_of_workers(runtime: "Runtime") -> Check:
    """Say how many worker processes beat."""
    from ragqueue.records import workers

    lately = 2 * runtime.settings.lease  # seconds
    beating = len(await runtime.records.read(workers.alive, lately))
    text = f"{beating} beat: `ragqueue worker` starts them, and `ragqueue serve` one with `sql`"
    return Check("workers", "ok" if beating else "note", text)


async def check_of_embedder(runtime: "Runtime", tenant: str) -> Check:
    """Say which embedder there is, and which documents it does not speak the language of."""
    from ragqueue.records import documents

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

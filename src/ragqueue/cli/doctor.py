"""Look at every part of the deployment and say what mends it."""

import sys

from ragqueue.cli.call import Call
from ragqueue.errors import RagqueueError, without_password
from ragqueue.parsers.pool import isolation
from ragqueue.records import documents, workers
from ragqueue.records.store import sqlite_is_safe, sqlite_module
from ragqueue.settings import check_model
from ragqueue.wiring import open_runtime


async def doctor(call: Call) -> None:
    """Look at every part and say what mends it; status 1 when something is wrong."""
    settings, alone, safe = call.settings, call.settings.queue_url == "sql", sqlite_is_safe()
    risk = (
        ""
        if safe
        else " can corrupt a file that two processes write: use a newer Python, or RAGQUEUE_ALLOW_OLD_SQLITE=1"
    )
    checks = [
        ("settings", "ok", f"from {', '.join(sorted(set(call.origins.values())))}"),
        (
            "database",
            "ok" if safe else "note" if alone else "fault",
            f"SQLite {sqlite_module.sqlite_version}{risk}",
        ),
        ("queue", "ok", without_password(settings.queue_url)),
    ]
    if not alone and sys.platform != "linux":
        checks.append(
            (
                "RQ",
                "note",
                "RQ's own Worker forks (macOS: OBJC_DISABLE_INITIALIZE_FORK_SAFETY=YES): use `ragqueue worker`",
            )
        )
    try:
        check_model(settings)
        checks.append(("model", "ok", settings.llm_model))
    except RagqueueError as error:
        checks.append(("model", "fault", error.message))
        settings = settings.model_copy(
            update={"llm_model": "extractive"}
        )  # so that the rest is looked at, too
    try:
        checks.append(("parsers", "ok", f"in children: {await isolation(settings.parse_memory)}"))
        async with open_runtime(settings) as runtime:  # as a server would
            for note in dict.fromkeys(
                [*await runtime.queue.check(), *await runtime.log.check()]
            ):  # the two may be one Redis
                checks.append(("broker and log", "note", note))
            await runtime.log.read({"-": 0})
            checks.append(
                (
                    "broker and log",
                    "ok",
                    f"answer; {await runtime.queue.depth('chat')} chat jobs wait",
                )
            )
            beating = len(await runtime.records.read(workers.alive, 2 * settings.lease))
            said = f"{beating} beat: `ragqueue worker` starts them, and `ragqueue serve` one with `sql`"
            checks.append(("workers", "ok" if beating else "note", said))
            languages = set(await runtime.records.read(documents.counted, call.tenant))
        spoken = runtime.embedder.languages or languages if runtime.embedder else set()
        name = (
            runtime.embedder.name
            if runtime.embedder
            else "none (RAGQUEUE_EMBEDDER=minilm adds vectors)"
        )
        silent = (
            f": documents in {', '.join(sorted(languages - spoken))} are found by keywords alone"
            if languages - spoken
            else ""
        )
        checks.append(
            ("embedder", "ok" if runtime.embedder and not silent else "note", name + silent)
        )
    except RagqueueError as error:
        checks.append(("start", "fault", f"{error.message} [{error.code}]"))
    call.show(
        {"checks": [{"part": part, "state": state, "text": text} for part, state, text in checks]}
    )
    sys.exit(any(state == "fault" for _, state, _ in checks))

"""Worker processes under a supervisor."""

import asyncio
import gc
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from ragqueue.cli.call import Call
from ragqueue.errors import ConfigError, without_password
from ragqueue.records import jobs
from ragqueue.records.store import sqlite_is_safe, sqlite_module
from ragqueue.settings import Settings
from ragqueue.telemetry import configure_logging
from ragqueue.wiring import open_runtime
from ragqueue.working.limits import raise_open_files
from ragqueue.working.supervise import Supervisor


def worker(call: Call) -> None:
    settings = call.settings
    if not (settings.allow_old_sqlite or sqlite_is_safe()):
        said = f"SQLite {sqlite_module.sqlite_version} can corrupt a file that two processes write (its WAL-reset bug)"
        raise ConfigError(
            f"{said}: use a newer Python, or set RAGQUEUE_ALLOW_OLD_SQLITE=1 to accept the risk",
            code="unsafe_sqlite",
        )

    async def prepare() -> (
        None
    ):  # what is wrong shows in the foreground; no connection lives on in a forked child, here and below
        async with open_runtime(settings):
            pass

    def release(owner: str) -> None:  # the leases of a dead child
        asyncio.run(call.records(jobs.release, owner, write=True))

    asyncio.run(prepare())
    print(
        f"{settings.processes} workers x {settings.concurrency} chats on {without_password(settings.queue_url)}",
        flush=True,
    )
    Supervisor(
        partial(live_as_worker, settings),
        release,
        processes=settings.processes,
        lease=settings.lease,
        drain=settings.drain,
    ).run()


def live_as_worker(settings: Settings, owner: str, pulse: Callable[[], None]) -> None:
    """Be one worker process until SIGTERM, then drain; a function of the module, so that Windows can send it to a spawned child."""
    configure_logging(settings.log_level, settings.log_format)  # a spawned child begins without
    raise_open_files()

    async def live() -> None:
        async with (
            open_runtime(settings) as runtime,
            runtime.working(runtime.worker(owner=owner)) as consuming,
        ):
            signal.signal(
                signal.SIGTERM,
                lambda *_: consuming.get_loop().call_soon_threadsafe(consuming.cancel),
            )
            runtime.keeper.end_with(consuming.cancel)
            pulse()
            gc.freeze()  # as in `serve`
            with suppress(asyncio.CancelledError):
                await consuming
            if runtime.keeper.broken_loop:
                raise SystemExit(1)

    asyncio.run(live())

"""Worker processes under a supervisor."""

import asyncio
import gc
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import click

from ragqueue.cli import options
from ragqueue.cli.call import Call
from ragqueue.cli.command import Command
from ragqueue.errors import ConfigError, Unavailable, without_password

if TYPE_CHECKING:
    from ragqueue.settings import Settings


@click.command("worker", cls=Command)
@click.option("--processes", type=click.IntRange(1), help="Worker processes (RAGQUEUE_PROCESSES)")
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    help="Chat jobs that each runs at once (RAGQUEUE_CONCURRENCY)",
)
@options.data
def worker(processes: int | None, concurrency: int | None, data: str | None) -> None:
    """Run worker processes under a supervisor that restarts them."""
    supervise(Call({"processes": processes, "concurrency": concurrency, "data": data}))


def supervise(call: Call) -> None:
    """Run worker processes until SIGTERM or SIGINT. Raises ConfigError, Unavailable."""
    from ragqueue.records import jobs
    from ragqueue.working.supervise import Supervisor

    settings = call.settings
    if settings.database_url is None:
        check_sqlite(settings)

    def release(owner: str) -> None:  # the leases of a dead child
        asyncio.run(call.write(jobs.release, owner))

    # No connection lives on in a forked child, neither of this nor of `release`.
    asyncio.run(_try(settings))
    queue = without_password(settings.queue_url)
    print(f"{settings.processes} workers x {settings.concurrency} chats on {queue}", flush=True)
    supervisor = Supervisor(
        partial(live_as_worker, settings),
        release,
        processes=settings.processes,
        lease=settings.lease,
        drain=settings.drain,
    )
    supervisor.run()


def check_sqlite(settings: "Settings") -> None:
    """Raise ConfigError for a SQLite that several processes must not write through."""
    from ragqueue.records import sqlite

    if settings.allow_old_sqlite or sqlite.is_safe():
        return
    version = sqlite.sqlite_module.sqlite_version
    raise ConfigError(
        f"SQLite {version} can corrupt a file that two processes write (its WAL-reset bug): "
        "use a newer Python, or set RAGQUEUE_ALLOW_OLD_SQLITE=1 to accept the risk",
        code="unsafe_sqlite",
    )


async def _try(settings: "Settings") -> None:
    """Open everything once: what is wrong shows in the foreground."""
    from ragqueue.wiring import open_runtime

    async with open_runtime(settings):
        pass


def live_as_worker(settings: "Settings", owner: str, pulse: Callable[[], None]) -> None:
    """Be one worker process until SIGTERM, then drain.

    It is a function of the module, so that Windows can send it to a spawned child.
    """
    from ragqueue.telemetry import configure_logging
    from ragqueue.working.limits import raise_open_files

    configure_logging(settings.log_level, settings.log_format)  # a spawned child begins without
    raise_open_files()
    asyncio.run(_live(settings, owner, pulse))


async def _live(settings: "Settings", owner: str, pulse: Callable[[], None]) -> None:
    from ragqueue.wiring import open_runtime

    async with open_runtime(settings) as runtime:
        with suppress(Unavailable):  # the first question says so
            await runtime.retriever.warm()
        own_worker = runtime.worker(owner=owner)
        async with runtime.working(own_worker) as consuming:
            soon = consuming.get_loop().call_soon_threadsafe
            signal.signal(signal.SIGTERM, lambda *_: soon(consuming.cancel))
            runtime.keeper.end_with(consuming.cancel)
            pulse()
            gc.freeze()  # as in `serve`
            with suppress(asyncio.CancelledError):
                await consuming
            if runtime.keeper.broken_loop:
                raise SystemExit(1)

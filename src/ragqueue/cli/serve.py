"""`serve` and `worker`: the two long-running commands."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import click

from ragqueue.cli.output import data_option, prepare, run
from ragqueue.errors import ConfigError
from ragqueue.settings import Loaded, Settings, check_model

logger = logging.getLogger(__name__)


@click.command()
@click.option("--host", help="Address to bind (RAGQUEUE_HOST)")
@click.option("--port", type=int, help="Port to bind, 0 picks a free one (RAGQUEUE_PORT)")
@click.option("--no-worker", is_flag=True, help="Run no worker inside, also with the `sql` queue")
@data_option
def serve(host: str | None, port: int | None, no_worker: bool, data: str | None) -> None:
    """Serve the API and the page; with the `sql` queue a worker, too."""
    loaded = prepare({"host": host, "port": port, "data": data})
    check_model(loaded.settings)
    inside = loaded.settings.queue_url == "sql" and not no_worker
    listener = bind(loaded.settings)
    run(lambda: serve_on(listener, loaded.settings, inside, lambda url: banner(loaded, url, inside)))


def bind(settings: Settings) -> socket.socket:
    """Take the port. Raises ConfigError when somebody else has it."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if sys.platform != "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot bind {settings.host}:{settings.port} ({error.strerror}): stop what has it, or take another port with --port (0: any free one)"
        ) from error
    listener.listen(2048)
    return listener


async def serve_on(listener: socket.socket, settings: Settings, inside: bool, ready: Callable[[str], Any]) -> None:
    """Serve on a bound socket until asked to end; `ready` is called with the URL."""
    import uvicorn

    from ragqueue.api.app import create_app
    from ragqueue.embedded import working
    from ragqueue.records import keys
    from ragqueue.wiring import open_runtime, refuse_public

    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(open_runtime(settings))
        refuse_public(settings, keys=await runtime.records.read(keys.any_valid))
        if inside:
            await stack.enter_async_context(working(runtime))
        config = uvicorn.Config(create_app(runtime), log_config=None, access_log=False, timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        host, port = listener.getsockname()[:2]
        ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        await server.serve(sockets=[listener])


def banner(loaded: Loaded, url: str, inside: bool) -> None:
    """Say what runs where, and what changes each part."""
    s = loaded.settings
    hidden = s.queue_url.partition("@")[2] or s.queue_url
    lines = [
        ("Page", url),
        ("API", f"{url}/chat   (description: {url}/openapi.json)"),
        ("Metrics", f"{url}/metrics"),
        ("Data", f"{s.data}   (vectors: {s.vector_db_path})"),
        ("Queue", f"{hidden}   " + ("worker inside" if inside else "start workers with: ragqueue worker")),
        ("Model", f"{s.llm_model}   " + ("(no model: quotes; set LLM_MODEL and OPENAI_BASE_URL)" if s.model[0] == "extractive" else "")),
    ]
    print("ragqueue is ready", *(f"  {name:<8} {value}" for name, value in lines), "Ctrl+C ends it.", sep="\n", flush=True)


@click.command()
@click.option("--processes", type=click.IntRange(1), help="Worker processes (RAGQUEUE_PROCESSES)")
@click.option("--concurrency", type=click.IntRange(1), help="Chat jobs that each runs at once (RAGQUEUE_CONCURRENCY)")
@data_option
def worker(processes: int | None, concurrency: int | None, data: str | None) -> None:
    """Run worker processes under a supervisor that restarts them."""
    from ragqueue.jobs.supervise import Supervisor
    from ragqueue.records.store import refuse_unsafe_sqlite, sqlite_url

    flags = {"processes": processes, "concurrency": concurrency, "data": data}
    settings = prepare(flags).settings
    check_model(settings)
    url = sqlite_url(settings.data)
    refuse_unsafe_sqlite(url, allowed=settings.allow_old_sqlite)
    asyncio.run(check_services(settings))
    print(
        f"ragqueue worker: {settings.processes} processes x {settings.concurrency} chats on {settings.queue_url.partition('@')[2] or settings.queue_url}",
        flush=True,
    )
    Supervisor(Main(flags), Releaser(url), processes=settings.processes, lease=settings.lease, drain=settings.drain).run()


async def check_services(settings: Settings) -> None:
    """Migrate, and fail at once in the foreground when records or engine cannot be used; no connection lives on in a forked child."""
    from ragqueue.records.migrate import migrate
    from ragqueue.wiring import build_queue, open_records

    records = open_records(settings)
    queue = build_queue(settings, records)
    try:
        await queue.claim_database(migrate(records.engine))
    finally:
        await queue.close()
        records.close()


class Releaser:
    """Ends the leases of a dead child, on a connection that lives no longer than that."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, owner: str) -> None:
        from ragqueue.records import jobs
        from ragqueue.records.store import begin, open_engine

        engine = open_engine(self._url, pool_size=1)
        try:
            with engine.connect() as connection:
                begin(connection, durable=False)
                released = jobs.release_owner(connection, owner)
                connection.exec_driver_sql("COMMIT")
        finally:
            engine.dispose()
        logger.warning("supervisor.released owner=%s jobs=%d", owner, released)


class Main:
    """The life of one worker process; a class, so that Windows can send it to a spawned child."""

    def __init__(self, flags: dict[str, Any]) -> None:
        self._flags = flags

    def __call__(self, owner: str, pulse: Callable[[], None]) -> None:
        settings = prepare(self._flags).settings
        run(lambda: work_until_told(settings, owner, pulse))


async def work_until_told(settings: Settings, owner: str | None, pulse: Callable[[], None]) -> None:
    """Work until SIGTERM (or Ctrl+C), then drain."""
    from ragqueue.wiring import open_runtime
    from ragqueue.worker import work

    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(told.set))
    async with open_runtime(settings) as runtime:
        worker = runtime.worker(owner=owner, pulse=pulse)
        worker.start()
        consuming = asyncio.create_task(work(worker, runtime.queue, runtime.lanes))
        waiting = asyncio.create_task(told.wait())
        await asyncio.wait([consuming, waiting], return_when=asyncio.FIRST_COMPLETED)
        consuming.cancel()
        waiting.cancel()
        results = await asyncio.gather(consuming, return_exceptions=True)
        await worker.drain(settings.drain)
        for failure in results:
            if isinstance(failure, Exception):
                raise failure

"""`demo`, `serve` and `worker`: the commands that run until they are told to end."""

import asyncio
import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import click

from ragqueue.cli.ask import print_answer
from ragqueue.cli.command import DATA, Call, Command, address, prepare
from ragqueue.embedded import Ragqueue, working
from ragqueue.errors import ConfigError
from ragqueue.jobs.supervise import Supervisor
from ragqueue.records import jobs, keys
from ragqueue.records.migrate import migrate, open_records
from ragqueue.records.store import open_engine, refuse_unsafe_sqlite, sqlite_url, transact
from ragqueue.settings import Settings, check_model
from ragqueue.wiring import Runtime, build_queue, open_runtime, refuse_public

SAMPLES = Path(__file__).parents[1] / "samples"
QUESTION = "How do I declare a query parameter with a default value?"
NEXT = """
  Page      {url}
  API       {url}/chat   (description: {url}/openapi.json)
  Metrics   {url}/metrics
  Data      {folder} (a temporary folder: gone when this ends)

Your own documents:      ragqueue serve, then ragqueue ingest PATH
Redis and RQ workers:    REDIS_URL=redis://localhost:6379 in .env, then ragqueue serve and ragqueue worker
A model that writes:     LLM_MODEL=your-model and OPENAI_BASE_URL=http://localhost:11434/v1 (or OPENAI_API_KEY) in .env
"""

logger = logging.getLogger(__name__)


@click.command(cls=Command, common=(DATA,))
@click.option("--host", help="Address to bind (RAGQUEUE_HOST)")
@click.option("--port", type=int, help="Port to bind, 0 picks a free one (RAGQUEUE_PORT)")
@click.option("--no-worker", is_flag=True, help="Run no worker inside, also with the `sql` queue")
async def serve(call: Call, no_worker: bool) -> None:
    """Serve the API and the page; with the `sql` queue a worker, too."""
    settings = call.loaded.settings
    check_model(settings)
    inside = settings.queue_url == "sql" and not no_worker
    listener = bind(settings)
    async with open_runtime(settings) as runtime:
        refuse_public(settings, keys=await runtime.records.read(keys.any_valid))
        async with working(runtime) if inside else nullcontext():
            server = server_of(runtime, grace=5)
            print(banner(settings, inside, listener), flush=True)
            await server.serve(sockets=[listener])


def bind(settings: Settings) -> socket.socket:
    """Take the port. Raises ConfigError when somebody else has it."""
    family, dual = (socket.AF_INET6, socket.has_dualstack_ipv6()) if ":" in settings.host else (socket.AF_INET, False)
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048, dualstack_ipv6=dual)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]  # create_server adds the address
        raise ConfigError(
            f"cannot bind {settings.host}:{settings.port} ({reason}): stop what has it, or take another port with --port (0: any free one)"
        ) from error


def server_of(runtime: Runtime, *, grace: int) -> Any:
    """Return a server that gives streams `grace` seconds when it is asked to end; SIGTERM ends it, and no longer the process."""
    import uvicorn  # here: a worker process loads no web server

    from ragqueue.api.app import create_app

    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again when it has ended: the worker inside shall drain
    return uvicorn.Server(uvicorn.Config(create_app(runtime), log_config=None, access_log=False, timeout_graceful_shutdown=grace))


def banner(settings: Settings, inside: bool, listener: socket.socket) -> str:
    """Say what runs where, and what changes each part."""
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return f"""ragqueue is ready
  Page     {url}
  API      {url}/chat   (description: {url}/openapi.json)
  Metrics  {url}/metrics
  Data     {settings.data}   (vectors: {settings.vector_db_path})
  Queue    {address(settings.queue_url)}   {"worker inside" if inside else "start workers with: ragqueue worker"}
  Model    {settings.llm_model}   {"(no model: quotes; set LLM_MODEL and OPENAI_BASE_URL)" if settings.model[0] == "extractive" else ""}
Ctrl+C ends it."""


@click.command(cls=Command, common=(DATA,))
@click.option("--processes", type=click.IntRange(1), help="Worker processes (RAGQUEUE_PROCESSES)")
@click.option("--concurrency", type=click.IntRange(1), help="Chat jobs that each runs at once (RAGQUEUE_CONCURRENCY)")
def worker(call: Call) -> None:
    """Run worker processes under a supervisor that restarts them."""
    settings = call.loaded.settings
    check_model(settings)
    url = sqlite_url(settings.data)
    refuse_unsafe_sqlite(url, allowed=settings.allow_old_sqlite)
    asyncio.run(check_services(settings))
    where = address(settings.queue_url)
    print(f"ragqueue worker: {settings.processes} processes x {settings.concurrency} chats on {where}", flush=True)
    main, let_go = partial(live_as_worker, call.flags), partial(release, url)
    Supervisor(main, let_go, processes=settings.processes, lease=settings.lease, drain=settings.drain).run()


async def check_services(settings: Settings) -> None:
    """Migrate, and fail at once in the foreground when records or engine cannot be used; no connection lives on in a forked child."""
    records = open_records(settings.data)
    queue = build_queue(settings, records)
    try:
        await queue.claim_database(migrate(records.engine))
    finally:
        await queue.close()
        records.close()


def release(url: str, owner: str) -> None:
    """End the leases of a dead child, on a connection that lives no longer than that."""
    engine = open_engine(url, pool_size=1)
    try:
        with engine.connect() as connection:
            released = transact(connection, jobs.release_owner, owner)
    finally:
        engine.dispose()
    logger.warning("supervisor.released owner=%s jobs=%d", owner, released)


def live_as_worker(flags: Mapping[str, Any], owner: str, pulse: Callable[[], None]) -> None:
    """Be one worker process until SIGTERM, then drain; a function of the module, so that Windows can send it to a spawned child."""
    settings = prepare(flags).settings

    async def live() -> None:
        told = asyncio.Event()
        loop = asyncio.get_running_loop()
        signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(told.set))
        async with open_runtime(settings) as runtime, working(runtime, runtime.worker(owner=owner)) as consuming:
            pulse()
            waiting = asyncio.create_task(told.wait())
            await asyncio.wait([consuming, waiting], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        if not consuming.cancelled():
            consuming.result()  # raises what ended the work too early

    asyncio.run(live())


@click.command()
@click.option("--exit", "leave", is_flag=True, help="Stop after the answer")
@click.option("--port", type=int, default=8000, show_default=True, help="Port to serve on; a free one when it is taken")
def demo(leave: bool, port: int) -> None:
    """Start everything on sample documents and ask a question; no server, key or download is needed."""
    for name in list(os.environ):
        if name.startswith(("RAGQUEUE_", "OPENAI_")) or name in ("REDIS_URL", "VECTOR_DB_PATH", "LLM_MODEL"):
            del os.environ[name]
    os.environ["RAGQUEUE_ENV_FILE"] = ""
    with tempfile.TemporaryDirectory(prefix="ragqueue-demo-", ignore_cleanup_errors=True) as folder:
        asyncio.run(_demo(folder, leave, port))


async def _demo(folder: str, leave: bool, port: int) -> None:
    began = time.monotonic()
    flags = {"data": f"{folder}/data", "vector_db_path": f"{folder}/vectors", "port": port}
    settings = prepare(flags, quiet=True).settings
    async with Ragqueue(settings=flags) as ragqueue:
        done = await ragqueue.ingest(SAMPLES)
        what = f"{len(done.ready)} sample documents with {done.chunks} passages"
        print(f"{what} ingested in {time.monotonic() - began:.1f} s (FastAPI's manual, MIT)\n\nquestion: {QUESTION}\nanswer:   ", end="")
        await print_answer(ragqueue, QUESTION)
        if leave:
            print(NEXT.format(url="http://127.0.0.1:8000 (not running: --exit)", folder=folder))
            return
        try:
            listener = bind(settings)
        except ConfigError:
            listener = bind(settings.model_copy(update={"port": 0}))
        server = server_of(ragqueue.runtime, grace=2)
        print(NEXT.format(url=f"http://127.0.0.1:{listener.getsockname()[1]}", folder=folder), flush=True)
        await server.serve(sockets=[listener])

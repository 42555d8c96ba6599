"""Serve the API and the page."""

import asyncio
import gc
import signal
import socket
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from ragqueue.cli import options
from ragqueue.cli.call import Call
from ragqueue.cli.command import Command
from ragqueue.errors import ConfigError, without_password

if TYPE_CHECKING:
    from ragqueue.settings import Settings
    from ragqueue.wiring import Runtime

BACKLOG = 2048  # connections that the system accepts ahead of us
SHUTDOWN = 5  # seconds that open requests have at the end
READY = (
    "\n"
    "ragqueue is ready on {url}\n"
    "  API      {url}/chat   (description: {url}/openapi.json; metrics: {url}/metrics)\n"
    "  Data     {data}   (your own documents: `ragqueue serve`, then `ragqueue ingest PATH`)\n"
    "  Queue    {queue}   "
    "(REDIS_URL=redis://localhost:6379 in .env and `ragqueue worker`: RQ on Redis)\n"
    "  Model    {model}   "
    "(LLM_MODEL=your-model and OPENAI_BASE_URL or OPENAI_API_KEY in .env: a model that writes)\n"
    "{end} ends it."
)


@click.command("serve", cls=Command)
@click.option("--host", help="Address to bind (RAGQUEUE_HOST)")
@options.port
@click.option("--no-worker", is_flag=True, help="Run no worker inside, also with the `sql` queue")
@options.data
def serve(host: str | None, port: int | None, no_worker: bool, data: str | None) -> None:
    """Serve the API and the page; with the `sql` queue a worker, too."""
    call = Call({"host": host, "port": port, "data": data})
    asyncio.run(run_server(call.settings, no_worker=no_worker))


async def run_server(settings: "Settings", *, no_worker: bool, leave: bool = False) -> None:
    """Serve until SIGTERM or Ctrl+C, or start alone (`leave`).

    Raises ConfigError when the port is taken or others could read without a key.
    """
    import uvicorn

    from ragqueue.api.app import create_app
    from ragqueue.wiring import open_runtime
    from ragqueue.working.limits import raise_open_files

    raise_open_files()
    async with open_runtime(settings) as runtime:
        await check_public(runtime)
        listener = bind(settings)
        config = uvicorn.Config(
            create_app(runtime),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=SHUTDOWN,
        )
        server = uvicorn.Server(config)
        server.should_exit = leave
        # From here on, and when uvicorn raises it again at its end: the worker inside shall drain.
        signal.signal(signal.SIGTERM, server.handle_exit)
        async with _worker_inside(runtime, no_worker):
            end = "--exit" if leave else "Ctrl+C"
            print(ready_text(settings, listener, end=end), flush=True)
            gc.freeze()  # a full collection of all that was imported stops every stream for 80 ms
            runtime.keeper.end_with(lambda: server.handle_exit(signal.SIGTERM, None))
            await server.serve(sockets=[listener])
            runtime.keeper.check()


def _worker_inside(runtime: "Runtime", no_worker: bool) -> AbstractAsyncContextManager[Any]:
    """Return the worker of this process; without one, a context that does nothing."""
    if no_worker or not runtime.queue.works_inside:
        return nullcontext()
    return runtime.working()


async def check_public(runtime: "Runtime") -> None:
    """Raise ConfigError when others than this host could read without a key."""
    from ragqueue.records import keys
    from ragqueue.wiring import is_private

    if is_private(runtime.settings) or await runtime.records.read(keys.any_valid):
        return
    raise ConfigError(
        f"RAGQUEUE_HOST is {runtime.settings.host!r}, but there is no API key: "
        "anybody could read every document. "
        "Make one with `ragqueue keys create NAME`, or bind 127.0.0.1"
    )


def bind(settings: "Settings") -> socket.socket:
    """Return a socket that listens. Raises ConfigError when the port is taken."""
    family = socket.AF_INET
    dualstack = False
    if ":" in settings.host:
        family = socket.AF_INET6
        dualstack = socket.has_dualstack_ipv6()
    address = (settings.host, settings.port)
    try:
        return socket.create_server(
            address, family=family, backlog=BACKLOG, dualstack_ipv6=dualstack
        )
    except OSError as error:
        raise ConfigError(
            f"cannot bind {settings.host!r}: {error.strerror}: "
            "take another with --port (0: any free one)"
        ) from error


def ready_text(settings: "Settings", listener: socket.socket, *, end: str) -> str:
    """Return what is printed once the server answers; `end`: what ends it."""
    host, port = listener.getsockname()[:2]
    if ":" in host:
        host = f"[{host}]"
    return READY.format(
        url=f"http://{host}:{port}",
        data=settings.data,
        queue=without_password(settings.queue_url),
        model=settings.llm_model,
        end=end,
    )

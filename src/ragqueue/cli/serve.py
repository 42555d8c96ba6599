"""Serve the API and the page."""

import gc
import signal
import socket
from contextlib import nullcontext

from ragqueue.cli.call import Call
from ragqueue.errors import ConfigError, without_password
from ragqueue.records import keys
from ragqueue.settings import Settings
from ragqueue.wiring import Runtime, is_private, open_runtime
from ragqueue.working.limits import raise_open_files

BACKLOG = 2048  # connections that the system accepts ahead of us
SHUTDOWN = 5  # seconds that open requests have at the end
READY = """
ragqueue is ready on {url}
  API      {url}/chat   (description: {url}/openapi.json; metrics: {url}/metrics)
  Data     {data}   (your own documents: `ragqueue serve`, then `ragqueue ingest PATH`)
  Queue    {queue}   (REDIS_URL=redis://localhost:6379 in .env and `ragqueue worker`: RQ on Redis)
  Model    {model}   (LLM_MODEL=your-model and OPENAI_BASE_URL or OPENAI_API_KEY in .env: a model \
that writes)
{end} ends it."""


async def serve(call: Call, no_worker: bool, leave: bool = False) -> None:
    """Serve until SIGTERM or Ctrl+C, or start alone (`leave`).

    Raises ConfigError when the port is taken or others could read without a key.
    """
    import uvicorn  # here: a worker process loads no web server

    from ragqueue.api.app import create_app

    raise_open_files()
    settings = call.settings
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
        # From now on, and when uvicorn raises it again at its end: the worker inside shall drain.
        signal.signal(signal.SIGTERM, server.handle_exit)
        works = runtime.queue.works_inside and not no_worker
        async with runtime.working() if works else nullcontext():
            print(ready(settings, listener, end="--exit" if leave else "Ctrl+C"), flush=True)
            gc.freeze()  # a full collection of all that was imported stops every stream for 80 ms
            runtime.keeper.end_with(lambda: server.handle_exit(signal.SIGTERM, None))
            await server.serve(sockets=[listener])
            runtime.keeper.check()


async def check_public(runtime: Runtime) -> None:
    """Raise ConfigError when others than this host could read without a key."""
    if is_private(runtime.settings) or await runtime.records.read(keys.any_valid):
        return
    raise ConfigError(
        f"RAGQUEUE_HOST is {runtime.settings.host!r}, but there is no API key: "
        "anybody could read every document. "
        "Make one with `ragqueue keys create NAME`, or bind 127.0.0.1"
    )


def bind(settings: Settings) -> socket.socket:
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


def ready(settings: Settings, listener: socket.socket, *, end: str) -> str:
    """Return what is printed once the server answers."""
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

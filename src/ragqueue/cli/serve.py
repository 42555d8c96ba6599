"""Serve the API and the page."""

import gc
import signal
import socket
from contextlib import nullcontext

from ragqueue.cli.call import Call
from ragqueue.errors import ConfigError, without_password
from ragqueue.records import keys
from ragqueue.wiring import is_private, open_runtime
from ragqueue.working.limits import raise_open_files

READY = """
ragqueue is ready on {url}
  API      {url}/chat   (description: {url}/openapi.json; metrics: {url}/metrics)
  Data     {data}   (your own documents: `ragqueue serve`, then `ragqueue ingest PATH`)
  Queue    {queue}   (REDIS_URL=redis://localhost:6379 in .env and `ragqueue worker`: RQ on Redis)
  Model    {model}   (LLM_MODEL=your-model and OPENAI_BASE_URL or OPENAI_API_KEY in .env: a model that writes)
{end} ends it."""


async def serve(call: Call, no_worker: bool, leave: bool = False) -> None:
    """Serve until SIGTERM or Ctrl+C, or start alone (`leave`). Raises ConfigError when the port is taken or others could read without a key."""
    import uvicorn  # here: a worker process loads no web server

    from ragqueue.api.app import create_app

    raise_open_files()
    settings, queue = call.settings, without_password(call.settings.queue_url)
    family, dual = (
        (socket.AF_INET6, socket.has_dualstack_ipv6())
        if ":" in settings.host
        else (socket.AF_INET, False)
    )
    async with open_runtime(settings) as runtime:
        if not is_private(settings) and not await runtime.records.read(keys.any_valid):
            said = f"RAGQUEUE_HOST is {settings.host!r}, but there is no API key: anybody could read every document. "
            raise ConfigError(said + "Make one with `ragqueue keys create NAME`, or bind 127.0.0.1")
        try:
            listener = socket.create_server(
                (settings.host, settings.port), family=family, backlog=2048, dualstack_ipv6=dual
            )
        except OSError as error:
            raise ConfigError(
                f"cannot bind {settings.host!r}: {error.strerror}: take another with --port (0: any free one)"
            ) from error
        host, port = listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(runtime), log_config=None, access_log=False, timeout_graceful_shutdown=5
            )
        )
        server.should_exit = leave
        # From now on, and when uvicorn raises it again at its end: the worker inside shall drain.
        signal.signal(signal.SIGTERM, server.handle_exit)
        async with nullcontext() if no_worker or settings.queue_url != "sql" else runtime.working():
            end = "--exit" if leave else "Ctrl+C"
            print(
                READY.format(
                    url=url, data=settings.data, queue=queue, model=settings.llm_model, end=end
                ),
                flush=True,
            )
            gc.freeze()  # a full collection of all that was imported stops every stream for 80 ms
            runtime.keeper.end_with(lambda: server.handle_exit(signal.SIGTERM, None))
            await server.serve(sockets=[listener])
            runtime.keeper.check()

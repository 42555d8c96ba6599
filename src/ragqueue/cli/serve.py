"""`demo`, `serve` and `worker`: the commands that run until they are told to end."""

import asyncio
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from functools import partial
from pathlib import Path

from ragqueue.cli.look import Call, without_password
from ragqueue.cli.work import print_answer
from ragqueue.embedded import Ragqueue, working
from ragqueue.errors import ConfigError
from ragqueue.jobs.supervise import Supervisor
from ragqueue.records import jobs, keys
from ragqueue.records.migrate import migrate, open_records
from ragqueue.records.store import refuse_unsafe_sqlite
from ragqueue.settings import Settings, check_model
from ragqueue.telemetry import configure_logging
from ragqueue.wiring import build_queue, open_runtime, refuse_public

QUESTION = "How do I declare a query parameter with a default value?"
READY = """
ragqueue is ready on {url}
  API      {url}/chat   (description: {url}/openapi.json; metrics: {url}/metrics)
  Data     {data}
  Queue    {queue}   (REDIS_URL=redis://localhost:6379 in .env and `ragqueue worker`: RQ on Redis)
  Model    {model}   (LLM_MODEL=your-model and OPENAI_BASE_URL or OPENAI_API_KEY in .env: a model that writes)
Ctrl+C ends it."""


async def serve(call: Call, no_worker: bool) -> None:
    """Serve until SIGTERM or Ctrl+C. Raises ConfigError when the port is taken or others could read without a key."""
    import uvicorn  # here: a worker process loads no web server

    from ragqueue.api.app import create_app

    settings, queue = call.settings, without_password(call.settings.queue_url)
    family, dual = (socket.AF_INET6, socket.has_dualstack_ipv6()) if ":" in settings.host else (socket.AF_INET, False)
    async with open_runtime(settings) as runtime:
        refuse_public(settings, keys=await runtime.records.read(keys.any_valid))
        try:
            listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048, dualstack_ipv6=dual)
        except OSError as error:
            raise ConfigError(f"cannot bind {settings.host!r}: {error.strerror}: take another with --port (0: any free one)") from error
        host, port = listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again when it has ended: the worker inside shall drain
        async with nullcontext() if no_worker or settings.queue_url != "sql" else working(runtime):
            config = uvicorn.Config(create_app(runtime), log_config=None, access_log=False, timeout_graceful_shutdown=5)
            print(READY.format(url=url, data=settings.data, queue=queue, model=settings.llm_model), flush=True)
            await uvicorn.Server(config).serve(sockets=[listener])


def worker(call: Call) -> None:
    settings = call.settings
    check_model(settings)

    async def prepare() -> None:  # fails in the foreground; no connection of it lives on in a forked child
        with closing(open_records(settings.data)) as records:
            refuse_unsafe_sqlite(records.url, allowed=settings.allow_old_sqlite)
            queue = build_queue(settings, records)
            await queue.claim_database(migrate(records.engine))
            await queue.close()

    asyncio.run(prepare())
    print(f"{settings.processes} workers x {settings.concurrency} chats on {without_password(settings.queue_url)}", flush=True)
    main, let_go = partial(live_as_worker, settings), partial(release, settings.data)
    Supervisor(main, let_go, processes=settings.processes, lease=settings.lease, drain=settings.drain).run()


def release(data: Path, owner: str) -> None:
    """End the leases of a dead child; no thread or connection of it lives on in the next one."""
    with closing(open_records(data)) as records:
        asyncio.run(records.note(jobs.release, owner))


def live_as_worker(settings: Settings, owner: str, pulse: Callable[[], None]) -> None:
    """Be one worker process until SIGTERM, then drain; a function of the module, so that Windows can send it to a spawned child."""
    configure_logging(settings.log_level, settings.log_format)  # a spawned child begins without

    async def live() -> None:
        async with open_runtime(settings) as runtime, working(runtime, runtime.worker(owner=owner)) as consuming:
            signal.signal(signal.SIGTERM, lambda *_: consuming.get_loop().call_soon_threadsafe(consuming.cancel))
            pulse()
            with suppress(asyncio.CancelledError):
                await consuming

    asyncio.run(live())


async def demo(call: Call, leave: bool) -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ragqueue-demo-", ignore_cleanup_errors=True) as folder:
        flags = {"data": f"{folder}/data", "vector_db_path": f"{folder}/vectors", "port": call.flags["port"] or 0}
        async with Ragqueue(settings=flags) as ragqueue:
            done = await ragqueue.ingest(Path(__file__).parents[1] / "samples")
            print(f"{len(done.ready)} sample documents with {done.chunks} passages (FastAPI's manual, MIT)", end=" ")
            print(f"ingested in {time.monotonic() - began:.1f} s\n\nquestion: {QUESTION}\nanswer:   ", end="")
            await print_answer(ragqueue, QUESTION)
        if not leave:
            await serve(Call(flags, None, call.tenant), no_worker=False)

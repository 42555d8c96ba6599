"""`demo`: everything in one process on the sample documents, and one question asked."""

import os
import tempfile
import time
from pathlib import Path

import click

from ragqueue.cli.output import prepare, run
from ragqueue.cli.serve import bind

SAMPLES = Path(__file__).parent.parent / "samples"
QUESTION = "How do I declare a query parameter with a default value?"


@click.command()
@click.option("--exit", "leave", is_flag=True, help="Stop after the answer")
@click.option("--port", type=int, default=8000, show_default=True, help="Port to serve on; a free one when it is taken")
def demo(leave: bool, port: int) -> None:
    """Start everything on sample documents and ask a question; no server, key or download is needed."""
    for name in [
        name for name in os.environ if name.startswith(("RAGQUEUE_", "OPENAI_")) or name in ("REDIS_URL", "VECTOR_DB_PATH", "LLM_MODEL")
    ]:
        del os.environ[name]
    os.environ["RAGQUEUE_ENV_FILE"] = ""
    with tempfile.TemporaryDirectory(prefix="ragqueue-demo-", ignore_cleanup_errors=True) as folder:
        run(lambda: _demo(Path(folder), port, leave))


async def _demo(folder: Path, port: int, leave: bool) -> None:
    from ragqueue.cli.ask import print_answer
    from ragqueue.embedded import Ragqueue

    began = time.monotonic()
    flags = {"data": folder / "data", "vector_db_path": folder / "vectors", "port": port}
    settings = prepare(flags, quiet=True).settings
    async with Ragqueue(settings=flags) as ragqueue:
        done = await ragqueue.ingest(SAMPLES)
        print(
            f"{len(done.ready)} sample documents with {done.chunks} passages ingested in {time.monotonic() - began:.1f} s (FastAPI's manual, MIT)\n"
        )
        print(f"question: {QUESTION}\nanswer:   ", end="")
        await print_answer(ragqueue, QUESTION)
        if leave:
            print(_next("http://127.0.0.1:8000 (not running: --exit)", folder))
            return
        await _serve(ragqueue, settings.port, folder)


async def _serve(ragqueue: object, port: int, folder: Path) -> None:
    import uvicorn

    from ragqueue.api.app import create_app
    from ragqueue.embedded import Ragqueue
    from ragqueue.errors import ConfigError

    assert isinstance(ragqueue, Ragqueue)
    settings = ragqueue.runtime.settings
    try:
        listener = bind(settings)
    except ConfigError:
        listener = bind(settings.model_copy(update={"port": 0}))
    print(_next(f"http://127.0.0.1:{listener.getsockname()[1]}", folder), flush=True)
    config = uvicorn.Config(create_app(ragqueue.runtime), log_config=None, access_log=False, timeout_graceful_shutdown=2)
    await uvicorn.Server(config).serve(sockets=[listener])


def _next(url: str, folder: Path) -> str:
    return f"""
  Page      {url}
  API       {url}/chat   (description: {url}/openapi.json)
  Metrics   {url}/metrics
  Data      {folder} (a temporary folder: gone when this ends)

Your own documents:      ragqueue serve, then ragqueue ingest PATH
Redis and RQ workers:    REDIS_URL=redis://localhost:6379 in .env, then ragqueue serve and ragqueue worker
A model that writes:     LLM_MODEL=your-model and OPENAI_BASE_URL=http://localhost:11434/v1 (or OPENAI_API_KEY) in .env
"""

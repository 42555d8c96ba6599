"""The first answer: everything in one process, on sample documents."""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from ragqueue.cli import options
from ragqueue.cli.ask import print_answer
from ragqueue.cli.call import Call
from ragqueue.cli.command import Command
from ragqueue.cli.serve import run_server

SAMPLES = Path(__file__).parents[1] / "samples"
QUESTION = "How do I declare a query parameter with a default value?"


@click.command("demo", cls=Command)
@click.option("--exit", "leave", is_flag=True, help="Stop after the answer")
@options.port
def demo(leave: bool, port: int | None) -> None:
    """Start everything on sample documents and ask a question. Needs no server, key or download."""
    Call({"port": port})  # a wrong setting is refused, although the demo goes by its own
    asyncio.run(_demo(port or 0, leave))


async def _demo(port: int, leave: bool) -> None:
    """Bring the samples in, ask a question, and serve; with `leave` it ends after the answer."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ragqueue-demo-", ignore_cleanup_errors=True) as folder:
        call = Call(_flags(folder, port))
        await _ingest_and_ask(call, began)
        await run_server(call.settings, no_worker=False, leave=leave)


def _flags(folder: str, port: int) -> dict[str, Any]:
    """Return settings of the demo: the defaults go before what `.env` and the shell say."""
    from ragqueue.settings import whole

    defaults = {name: field.default for name, field in whole().model_fields.items()}
    return defaults | {
        "data": f"{folder}/data",
        "vector_db_path": f"{folder}/vectors",
        "queue": "sql",
        "events": "sql",
        "log_level": "ERROR",
        "port": port,
    }


async def _ingest_and_ask(call: Call, began: float) -> None:
    """Bring the samples in, and answer the question; `began`: monotonic."""
    from ragqueue.embedded import Ragqueue

    async with Ragqueue(settings=call.flags) as ragqueue:
        done = await ragqueue.ingest(SAMPLES)
        seconds = time.monotonic() - began
        print(
            f"{len(done.ready)} sample documents with {done.chunks} passages "
            f"(FastAPI's manual, MIT) ingested in {seconds:.1f} s\n\n"
            f"question: {QUESTION}\nanswer:   ",
            end="",
        )
        await print_answer(ragqueue, QUESTION)

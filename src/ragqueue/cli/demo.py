"""The first answer: everything in one process, on sample documents."""

import tempfile
import time
from pathlib import Path

from ragqueue.cli.ask import print_answer
from ragqueue.cli.call import Call
from ragqueue.cli.serve import serve
from ragqueue.embedded import Ragqueue
from ragqueue.settings import Settings


async def demo(call: Call, leave: bool) -> None:
    began = time.monotonic()
    question = "How do I declare a query parameter with a default value?"
    defaults = {
        name: field.default for name, field in Settings.model_fields.items()
    }  # go before what is set in `.env` and the shell
    with tempfile.TemporaryDirectory(prefix="ragqueue-demo-", ignore_cleanup_errors=True) as folder:
        own = {
            "data": f"{folder}/data",
            "vector_db_path": f"{folder}/vectors",
            "queue": "sql",
            "events": "sql",
            "log_level": "ERROR",
        }
        call = Call(defaults | own | {"port": call.flags["port"] or 0}, None, call.tenant)
        async with Ragqueue(settings=call.flags) as ragqueue:
            done = await ragqueue.ingest(Path(__file__).parents[1] / "samples")
            print(
                f"{len(done.ready)} sample documents with {done.chunks} passages (FastAPI's manual, MIT)",
                end=" ",
            )
            print(
                f"ingested in {time.monotonic() - began:.1f} s\n\nquestion: {question}\nanswer:   ",
                end="",
            )
            await print_answer(ragqueue, question)
        await serve(call, no_worker=False, leave=leave)

"""The first answer: everything in one process, on sample documents."""

import tempfile
import time
from pathlib import Path

from ragqueue.cli.ask import print_answer
from ragqueue.cli.call import Call
from ragqueue.cli.serve import serve
from ragqueue.embedded import Ragqueue
from ragqueue.settings import whole

SAMPLES = Path(__file__).parents[1] / "samples"
QUESTION = "How do I declare a query parameter with a default value?"


async def demo(call: Call, leave: bool) -> None:
    """Bring the samples in, ask a question, and serve; with `leave` it ends after the answer."""
    began = time.monotonic()
    # The defaults go before what is set in `.env` and the shell.
    flags = {name: field.default for name, field in whole().model_fields.items()}
    with tempfile.TemporaryDirectory(prefix="ragqueue-demo-", ignore_cleanup_errors=True) as folder:
        flags |= {
            "data": f"{folder}/data",
            "vector_db_path": f"{folder}/vectors",
            "queue": "sql",
            "events": "sql",
            "log_level": "ERROR",
            "port": call.flags["port"] or 0,
        }
        call = Call(flags, as_json=None, tenant=call.tenant)
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
        await serve(call, no_worker=False, leave=leave)

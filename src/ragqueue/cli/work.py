"""Commands that need the whole system: in this process, or the deployment's workers behind the same records."""

import asyncio
import gc
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ragqueue.answering.grounding import MEANINGS
from ragqueue.cli.look import Call
from ragqueue.embedded import Ingested, Ragqueue, working
from ragqueue.errors import ConfigError, NotFound, RagqueueError, without_password
from ragqueue.jobs.reconcile import cancel
from ragqueue.jobs.supervise import Supervisor
from ragqueue.jobs.views import DELTA, RESTARTED, job_view
from ragqueue.parsers.pool import isolation
from ragqueue.records import documents, jobs, keys, workers
from ragqueue.records.store import sqlite_is_safe, sqlite_module
from ragqueue.retrieval import evaluation
from ragqueue.retrieval.fused import hit_view
from ragqueue.settings import Settings, check_model
from ragqueue.telemetry import configure_logging
from ragqueue.wiring import is_private, open_runtime
from ragqueue.working.limits import raise_open_files

_BAR = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
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
    family, dual = (socket.AF_INET6, socket.has_dualstack_ipv6()) if ":" in settings.host else (socket.AF_INET, False)
    async with open_runtime(settings) as runtime:
        if not is_private(settings) and not await runtime.records.read(keys.any_valid):
            said = f"RAGQUEUE_HOST is {settings.host!r}, but there is no API key: anybody could read every document. "
            raise ConfigError(said + "Make one with `ragqueue keys create NAME`, or bind 127.0.0.1")
        try:
            listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048, dualstack_ipv6=dual)
        except OSError as error:
            raise ConfigError(f"cannot bind {settings.host!r}: {error.strerror}: take another with --port (0: any free one)") from error
        host, port = listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        server = uvicorn.Server(uvicorn.Config(create_app(runtime), log_config=None, access_log=False, timeout_graceful_shutdown=5))
        server.should_exit = leave
        # From now on, and when uvicorn raises it again at its end: the worker inside shall drain.
        signal.signal(signal.SIGTERM, server.handle_exit)
        async with nullcontext() if no_worker or settings.queue_url != "sql" else working(runtime):
            end = "--exit" if leave else "Ctrl+C"
            print(READY.format(url=url, data=settings.data, queue=queue, model=settings.llm_model, end=end), flush=True)
            gc.freeze()  # a full collection of all that was imported stops every stream for 80 ms
            runtime.keeper.end_with(lambda: server.handle_exit(signal.SIGTERM, None))
            await server.serve(sockets=[listener])
            runtime.keeper.check()


def worker(call: Call) -> None:
    settings = call.settings
    if not (settings.allow_old_sqlite or sqlite_is_safe()):
        said = f"SQLite {sqlite_module.sqlite_version} can corrupt a file that two processes write (its WAL-reset bug)"
        raise ConfigError(f"{said}: use a newer Python, or set RAGQUEUE_ALLOW_OLD_SQLITE=1 to accept the risk", code="unsafe_sqlite")

    async def prepare() -> None:  # what is wrong shows in the foreground; no connection lives on in a forked child, here and below
        async with open_runtime(settings):
            pass

    def release(owner: str) -> None:  # the leases of a dead child
        asyncio.run(call.records(jobs.release, owner, write=True))

    asyncio.run(prepare())
    print(f"{settings.processes} workers x {settings.concurrency} chats on {without_password(settings.queue_url)}", flush=True)
    Supervisor(partial(live_as_worker, settings), release, processes=settings.processes, lease=settings.lease, drain=settings.drain).run()


def live_as_worker(settings: Settings, owner: str, pulse: Callable[[], None]) -> None:
    """Be one worker process until SIGTERM, then drain; a function of the module, so that Windows can send it to a spawned child."""
    configure_logging(settings.log_level, settings.log_format)  # a spawned child begins without
    raise_open_files()

    async def live() -> None:
        async with open_runtime(settings) as runtime, working(runtime, runtime.worker(owner=owner)) as consuming:
            signal.signal(signal.SIGTERM, lambda *_: consuming.get_loop().call_soon_threadsafe(consuming.cancel))
            runtime.keeper.end_with(consuming.cancel)
            pulse()
            gc.freeze()  # as in `serve`
            with suppress(asyncio.CancelledError):
                await consuming
            if runtime.keeper.broken_loop:
                raise SystemExit(1)

    asyncio.run(live())


async def demo(call: Call, leave: bool) -> None:
    began = time.monotonic()
    question = "How do I declare a query parameter with a default value?"
    defaults = {name: field.default for name, field in Settings.model_fields.items()}  # go before what is set in `.env` and the shell
    with tempfile.TemporaryDirectory(prefix="ragqueue-demo-", ignore_cleanup_errors=True) as folder:
        own = {"data": f"{folder}/data", "vector_db_path": f"{folder}/vectors", "queue": "sql", "events": "sql", "log_level": "ERROR"}
        call = Call(defaults | own | {"port": call.flags["port"] or 0}, None, call.tenant)
        async with Ragqueue(settings=call.flags) as ragqueue:
            done = await ragqueue.ingest(Path(__file__).parents[1] / "samples")
            print(f"{len(done.ready)} sample documents with {done.chunks} passages (FastAPI's manual, MIT)", end=" ")
            print(f"ingested in {time.monotonic() - began:.1f} s\n\nquestion: {question}\nanswer:   ", end="")
            await print_answer(ragqueue, question)
        await serve(call, no_worker=False, leave=leave)


@asynccontextmanager
async def opened(call: Call) -> AsyncIterator[Ragqueue]:
    """Open the system; tell who waits for a worker of the deployment that there is none."""
    async with Ragqueue(tenant=call.tenant, settings=call.flags) as ragqueue:
        if call.settings.queue_url != "sql" and not await ragqueue.workers():
            print("no worker is running: this waits until one is (`ragqueue worker`)", file=sys.stderr, flush=True)
        yield ragqueue


async def ingest(call: Call, paths: tuple[str, ...], collection: str) -> None:
    began = time.monotonic()
    async with opened(call) as ragqueue:
        with Progress(*_BAR, console=Console(stderr=True), disable=call.as_json or not sys.stderr.isatty()) as bar:
            task = bar.add_task("", total=None)

            def show(done: Ingested, files: int) -> None:
                seconds = time.monotonic() - began
                rate = f"{done.files / seconds:.1f} files/s, {done.chunks / seconds:.0f} passages/s"
                bar.update(task, total=files, completed=done.files, description=rate)

            done = await ragqueue.ingest(*paths, collection=collection, progress=show)
    found = {"files": done.files, "ready": len(done.ready), "unchanged": len(done.unchanged), "failed": done.failed}
    call.show(found | {"passages": done.chunks, "seconds": round(time.monotonic() - began, 3)})
    sys.exit(bool(done.failed) and len(done.failed) == done.files)


async def ask(call: Call, question: str, collection: str | None, limit: int | None) -> None:
    async with opened(call) as ragqueue:
        if call.as_json:
            return call.show((await ragqueue.ask(question, collection=collection, limit=limit)).view)
        await print_answer(ragqueue, question, collection, limit)


async def print_answer(ragqueue: Ragqueue, question: str, collection: str | None = None, limit: int | None = None) -> None:
    """Stream an answer to standard output, then its citations."""
    async for event in ragqueue.stream(question, collection=collection, limit=limit):
        if event.type in (DELTA, RESTARTED):
            print(event.data.get("delta", "\n-- the answer begins anew --\n"), end="", flush=True)
    view = event.data["response"]
    print()
    if view["error"]:
        sys.exit(f"{view['status']}: {view['error']['message']} [{view['error']['code']}]")
    if view["answer"] is None:  # it was cancelled before its first word
        sys.exit(f"the question is {view['status']}")
    for citation in view["answer"]["citations"]:
        document = await ragqueue.runtime.records.read(documents.get, ragqueue.tenant, citation["document_id"])
        source = document.source if document else citation["document_id"]
        page = f", page {citation['page']}" if citation["page"] else ""
        print(f"  [{citation['n']}] {source}{page} ({citation['start']}-{citation['end']}): {citation['quote']!r}")
    if (word := view["answer"]["grounding"]) not in ("grounded", "abstained"):  # an abstained answer says so itself
        print(f"  {word}: {MEANINGS[word]}")
    for hit in {hit["document_id"]: hit for hit in view["answer"].get("nearest", [])}.values():
        print(f"  nearest: {hit['source']}: {hit['text'][:160]!r}")


async def search(call: Call, question: str, collection: str | None, limit: int) -> None:
    async with Ragqueue(settings=call.flags) as ragqueue:
        hits = await ragqueue.search(question, collection=collection, limit=limit)
    if call.as_json:
        return call.show({"hits": [hit_view(hit) for hit in hits]})
    for n, hit in enumerate(hits, 1):
        where = " > ".join((hit.chunk.title, *hit.chunk.heading_path))
        print(f"{n}. {hit.score:.3f}  {hit.chunk.source}  {where}\n   {' '.join(hit.chunk.text.split())[:300]}")


async def docs_delete(call: Call, document_id: str) -> None:
    async with opened(call) as ragqueue:
        call.show((await ragqueue.delete(document_id))._asdict())


async def jobs_retry(call: Call, job_id: str) -> None:
    old = await call.records(jobs.get, call.tenant, job_id, wanted=f"job {job_id!r}")
    async with open_runtime(call.settings) as runtime:
        job = await runtime.submitter.retry(old)
        await runtime.ringer.flush()
    call.show(job_view(job))


async def jobs_cancel(call: Call, job_id: str) -> None:
    async with open_runtime(call.settings) as runtime:
        if (job := await cancel(runtime.records, runtime.log, call.tenant, job_id)) is None:
            raise NotFound(f"there is no job {job_id!r}: `ragqueue jobs list` shows what there is")
    call.show(job_view(job))


async def doctor(call: Call) -> None:
    """Look at every part and say what mends it; status 1 when something is wrong."""
    settings, alone, safe = call.settings, call.settings.queue_url == "sql", sqlite_is_safe()
    risk = "" if safe else " can corrupt a file that two processes write: use a newer Python, or RAGQUEUE_ALLOW_OLD_SQLITE=1"
    checks = [
        ("settings", "ok", f"from {', '.join(sorted(set(call.origins.values())))}"),
        ("database", "ok" if safe else "note" if alone else "fault", f"SQLite {sqlite_module.sqlite_version}{risk}"),
        ("queue", "ok", without_password(settings.queue_url)),
    ]
    if not alone and sys.platform != "linux":
        checks.append(("RQ", "note", "RQ's own Worker forks (macOS: OBJC_DISABLE_INITIALIZE_FORK_SAFETY=YES): use `ragqueue worker`"))
    try:
        check_model(settings)
        checks.append(("model", "ok", settings.llm_model))
    except RagqueueError as error:
        checks.append(("model", "fault", error.message))
        settings = settings.model_copy(update={"llm_model": "extractive"})  # so that the rest is looked at, too
    try:
        checks.append(("parsers", "ok", f"in children: {await isolation(settings.parse_memory)}"))
        async with open_runtime(settings) as runtime:  # as a server would
            for note in dict.fromkeys([*await runtime.queue.check(), *await runtime.log.check()]):  # the two may be one Redis
                checks.append(("broker and log", "note", note))
            await runtime.log.read({"-": 0})
            checks.append(("broker and log", "ok", f"answer; {await runtime.queue.depth('chat')} chat jobs wait"))
            beating = len(await runtime.records.read(workers.alive, 2 * settings.lease))
            said = f"{beating} beat: `ragqueue worker` starts them, and `ragqueue serve` one with `sql`"
            checks.append(("workers", "ok" if beating else "note", said))
            languages = set(await runtime.records.read(documents.counted, call.tenant))
        spoken = runtime.embedder.languages or languages if runtime.embedder else set()
        name = runtime.embedder.name if runtime.embedder else "none (RAGQUEUE_EMBEDDER=minilm adds vectors)"
        silent = f": documents in {', '.join(sorted(languages - spoken))} are found by keywords alone" if languages - spoken else ""
        checks.append(("embedder", "ok" if runtime.embedder and not silent else "note", name + silent))
    except RagqueueError as error:
        checks.append(("start", "fault", f"{error.message} [{error.code}]"))
    call.show({"checks": [{"part": part, "state": state, "text": text} for part, state, text in checks]})
    sys.exit(any(state == "fault" for _, state, _ in checks))


async def evaluate(call: Call, folder: str) -> None:
    """Measure retrieval, and check every quote of the answers."""
    corpus, questions, judgments = evaluation.read_folder(Path(folder))
    with tempfile.TemporaryDirectory(prefix="ragqueue-eval-", ignore_cleanup_errors=True) as place:
        flags = {"data": f"{place}/data", "vector_db_path": f"{place}/vectors", "queue": "sql", "events": "sql", "llm_model": "extractive"}
        async with Ragqueue(settings=flags) as ragqueue:
            # The title of a plain text is the last part of its source.
            files = ((f"{number}/{text.title.replace('/', ' ')}", text.text.encode()) for number, text in enumerate(corpus))
            await asyncio.gather(*(ragqueue.store(source, data, media_type="text/plain") for source, data in files))
            ranked, times = {}, []
            for question in questions:
                began = time.perf_counter()
                hits = await ragqueue.search(question.text, limit=100)  # passages: each document counts by its best
                times.append((time.perf_counter() - began) * 1000)
                ranked[question.id] = [corpus[int(hit.chunk.source.partition("/")[0])].id for hit in hits]
            scores = evaluation.evaluate(ranked, judgments)
            answers = await asyncio.gather(*(ragqueue.ask(question.text) for question in questions[:200]))  # for their quotes
            quotes, wrong = [citation for answer in answers for citation in answer.citations], 0
            for quote in quotes:
                found = await ragqueue.runtime.records.read(documents.text_of, "default", quote.document_id, quote.version)
                wrong += found is None or found[0][quote.start : quote.end] != quote.quote
    p50, p99 = np.percentile(times, (50, 99)).round(2).tolist()
    call.show(scores | {"quotes": len(quotes), "quotes_wrong": wrong, "search_ms_p50": p50, "search_ms_p99": p99})

"""`docs`, `jobs`, `keys` and `status`: look at the records and change them."""

import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import click

from ragqueue.cli.command import DATA, JSON, TENANT, Call, Command, print_table
from ragqueue.errors import NotFound
from ragqueue.jobs.views import job_view
from ragqueue.records import documents, jobs, keys, workers
from ragqueue.types import Job

_OF_TENANT = (TENANT, DATA, JSON)

docs = click.Group("docs", help="List, show and delete documents.")
job_commands = click.Group("jobs", help="List, show, retry and cancel jobs.")
key_commands = click.Group("keys", help="Create, list and revoke API keys.")


@docs.command("list", cls=Command, common=_OF_TENANT)
@click.option("--collection")
async def docs_list(call: Call, collection: str | None) -> None:
    """List documents."""
    found = await call.records(lambda c: documents.listed(c, call.tenant, collection=collection, after="", limit=100_000))
    rows = [(d.id, d.collection, d.source, d.state, d.chunks, d.error) for d in found]
    call.show({"documents": [asdict(d) for d in found]}, ("id", "collection", "source", "state", "passages", "error"), rows)


@docs.command("show", cls=Command, common=_OF_TENANT)
@click.argument("document_id")
@click.option("--text", is_flag=True, help="Print the canonical text")
async def docs_show(call: Call, document_id: str, text: bool) -> None:
    """Show a document."""
    document = await call.records(lambda c: documents.get(c, call.tenant, document_id))
    if document is None:
        sys.exit(f"ragqueue: there is no document {document_id!r}: `ragqueue docs list` shows those that are")
    if text:
        found = await call.records(lambda c: documents.text_of(c, call.tenant, document_id, None))
        print(found[0] if found else "")
    else:
        call.show(asdict(document))


@docs.command("delete", cls=Command, common=_OF_TENANT)
@click.argument("document_id")
async def docs_delete(call: Call, document_id: str) -> None:
    """Delete a document, with everything that quotes it, and print the receipt."""
    from ragqueue.cli.ask import opened  # here: looking at the records needs none of the rest

    async with opened(call) as ragqueue:
        receipt = await ragqueue.delete(document_id)
    call.show(asdict(receipt), ("receipt", ""))


@job_commands.command("list", cls=Command, common=_OF_TENANT)
@click.option("--state", type=click.Choice(["queued", "running", "succeeded", "failed", "cancelled"]))
@click.option("--kind")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
async def jobs_list(call: Call, state: str | None, kind: str | None, limit: int) -> None:
    """List jobs, newest first."""
    found = await call.records(lambda c: jobs.listed(c, call.tenant, state=state, kind=kind, before=None, limit=limit))
    views = [job_view(job) for job in found]
    columns = ("id", "kind", "status", "attempt", "tries", "deaths")
    rows = [[*(view[column] for column in columns), view["error"] and view["error"]["message"]] for view in views]
    call.show({"jobs": views}, (*columns, "error"), rows)


@job_commands.command("show", cls=Command, common=_OF_TENANT)
@click.argument("job_id")
async def jobs_show(call: Call, job_id: str) -> None:
    """Show a job."""
    job = await call.records(lambda c: jobs.get(c, call.tenant, job_id))
    if job is None:
        sys.exit(f"ragqueue: there is no job {job_id!r}: `ragqueue jobs list` shows those that are")
    call.show(job_view(job))


@job_commands.command("retry", cls=Command, common=_OF_TENANT)
@click.argument("job_id")
async def jobs_retry(call: Call, job_id: str) -> None:
    """Make a new job of a failed or cancelled one."""
    await _act(call, job_id, lambda runtime: runtime.submitter.retry(call.tenant, job_id))


@job_commands.command("cancel", cls=Command, common=_OF_TENANT)
@click.argument("job_id")
async def jobs_cancel(call: Call, job_id: str) -> None:
    """Ask for the end of a job."""
    from ragqueue.jobs.reconcile import cancel

    await _act(call, job_id, lambda runtime: cancel(runtime.records, runtime.log, call.tenant, job_id))


async def _act(call: Call, job_id: str, act: Callable[[Any], Awaitable[Job | None]]) -> None:
    from ragqueue.wiring import open_runtime

    async with open_runtime(call.loaded.settings) as runtime:
        job = await act(runtime)
        if job is None:
            raise NotFound(f"there is no job {job_id!r}")
        await runtime.ringer.flush()
    view = job_view(job)
    call.say(view, f"{view['id']} {view['status']}")


@key_commands.command("create", cls=Command, common=_OF_TENANT)
@click.argument("name")
async def keys_create(call: Call, name: str) -> None:
    """Make a key and print it: it is stored as a hash and cannot be shown again."""
    key = await call.records(lambda c: keys.create(c, call.tenant, name), write=True)
    call.say({"key": key, "tenant": call.tenant, "name": name}, key)


@key_commands.command("list", cls=Command)
async def keys_list(call: Call) -> None:
    """List keys."""
    found = await call.records(keys.listed)
    rows = [(key.id, key.tenant, key.name, key.revoked_at) for key in found]
    call.show({"keys": [asdict(key) for key in found]}, ("id", "tenant", "name", "revoked"), rows)


@key_commands.command("revoke", cls=Command)
@click.argument("key_id")
async def keys_revoke(call: Call, key_id: str) -> None:
    """End a key's validity, at once."""
    if not await call.records(lambda c: keys.revoke(c, key_id), write=True):
        sys.exit(f"ragqueue: there is no valid key {key_id!r}: `ragqueue keys list` shows those that are")
    call.say({"revoked": key_id}, f"{key_id} revoked")


@click.command(cls=Command, common=_OF_TENANT)
async def status(call: Call) -> None:
    """Show queues, workers and documents."""
    age = 2 * call.loaded.settings.lease

    def read(connection: Any) -> Any:
        return workers.gauge(connection, age), workers.alive(connection, age), documents.counted(connection, call.tenant)

    gauge, alive, (ready, passages) = await call.records(read)
    counts = {f"{lane} {state}": count for (lane, state), count in sorted(gauge.states.items())}
    totals = {"dead_letters": gauge.dead_letters, "documents": ready, "passages": passages}
    found = {"jobs": counts, "oldest_s": gauge.oldest} | totals | {"workers": [asdict(worker) for worker in alive]}
    call.show(found, ("what", "count"), [*counts.items(), *((name.replace("_", " "), count) for name, count in totals.items())])
    if not call.as_json:
        rows = [(worker.owner, worker.host, worker.pid, worker.running, round(worker.age, 1)) for worker in alive]
        print_table(("worker", "host", "pid", "running", "last beat s"), rows)

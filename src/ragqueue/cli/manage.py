"""`docs`, `jobs`, `keys` and `status`: look at the records and change them."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from ragqueue.cli.output import data_option, json_option, prepare, print_json, print_table, run

TENANT = "default"
tenant_option = click.option("--tenant", default=TENANT, show_default=True, help="Whose")


def _with_records(data: str | None, function: Callable[[Any], Any], *, write: bool = False) -> Any:
    """Run a function of the records and return what it returns."""
    from ragqueue.records.migrate import migrate
    from ragqueue.wiring import open_records

    records = open_records(prepare({"data": data}, quiet=True).settings)
    try:
        migrate(records.engine)
        return asyncio.run(records.write(function) if write else records.read(function))
    finally:
        records.close()


def _fail(message: str) -> None:
    print(f"ragqueue: {message}", file=sys.stderr)
    sys.exit(1)


@click.group()
def docs() -> None:
    """List, show and delete documents."""


@docs.command("list")
@click.option("--collection")
@tenant_option
@data_option
@json_option
def docs_list(collection: str | None, tenant: str, data: str | None, as_json: bool) -> None:
    """List documents."""
    from ragqueue.records import documents

    found = _with_records(data, lambda c: documents.listed(c, tenant, collection=collection, after="", limit=100_000))
    if as_json:
        print_json({"documents": [asdict(document) for document in found]})
    else:
        print_table(
            ("id", "collection", "source", "state", "passages", "error"),
            [(d.id, d.collection, d.source, d.state, d.chunks, d.error) for d in found],
        )


@docs.command("show")
@click.argument("document_id")
@click.option("--text", is_flag=True, help="Print the canonical text")
@tenant_option
@data_option
@json_option
def docs_show(document_id: str, text: bool, tenant: str, data: str | None, as_json: bool) -> None:
    """Show a document."""
    from ragqueue.records import documents

    document = _with_records(data, lambda c: documents.get(c, tenant, document_id))
    if document is None:
        _fail(f"there is no document {document_id!r}: `ragqueue docs list` shows those that are")
    if text:
        found = _with_records(data, lambda c: documents.text_of(c, tenant, document_id, None))
        print(found[0] if found else "")
    elif as_json:
        print_json(asdict(document))
    else:
        print_table(("field", "value"), list(asdict(document).items()))


@docs.command("delete")
@click.argument("document_id")
@tenant_option
@data_option
@json_option
def docs_delete(document_id: str, tenant: str, data: str | None, as_json: bool) -> None:
    """Delete a document, with everything that quotes it, and print the receipt."""
    prepare({"data": data}, quiet=True)

    async def delete() -> None:
        from ragqueue.cli.ask import say_when_no_worker
        from ragqueue.embedded import Ragqueue

        async with Ragqueue(tenant=tenant, settings={"data": data}) as ragqueue:
            await say_when_no_worker(ragqueue)
            receipt = asdict(await ragqueue.delete(document_id))
        print_json(receipt) if as_json else print_table(("receipt", ""), list(receipt.items()))

    run(delete)


@click.group()
def jobs() -> None:
    """List, show, retry and cancel jobs."""


@jobs.command("list")
@click.option("--state", type=click.Choice(["queued", "running", "succeeded", "failed", "cancelled"]))
@click.option("--kind")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@tenant_option
@data_option
@json_option
def jobs_list(state: str | None, kind: str | None, limit: int, tenant: str, data: str | None, as_json: bool) -> None:
    """List jobs, newest first."""
    from ragqueue.jobs.views import job_view
    from ragqueue.records import jobs as rows

    found = [
        job_view(job) for job in _with_records(data, lambda c: rows.listed(c, tenant, state=state, kind=kind, before=None, limit=limit))
    ]
    if as_json:
        print_json({"jobs": found})
    else:
        columns = ("id", "kind", "status", "attempt", "tries", "deaths", "error")
        print_table(columns, [[job[c] if c != "error" or not job[c] else job[c]["message"] for c in columns] for job in found])


@jobs.command("show")
@click.argument("job_id")
@tenant_option
@data_option
@json_option
def jobs_show(job_id: str, tenant: str, data: str | None, as_json: bool) -> None:
    """Show a job."""
    from ragqueue.jobs.views import job_view
    from ragqueue.records import jobs as rows

    job = _with_records(data, lambda c: rows.get(c, tenant, job_id))
    if job is None:
        _fail(f"there is no job {job_id!r}: `ragqueue jobs list` shows those that are")
    print_json(job_view(job)) if as_json else print_table(("field", "value"), list(job_view(job).items()))


@jobs.command("retry")
@click.argument("job_id")
@tenant_option
@data_option
@json_option
def jobs_retry(job_id: str, tenant: str, data: str | None, as_json: bool) -> None:
    """Make a new job of a failed or cancelled one."""
    _act(data, as_json, lambda runtime: runtime.submitter.retry(tenant, job_id))


@jobs.command("cancel")
@click.argument("job_id")
@tenant_option
@data_option
@json_option
def jobs_cancel(job_id: str, tenant: str, data: str | None, as_json: bool) -> None:
    """Ask for the end of a job."""
    from ragqueue.errors import NotFound
    from ragqueue.jobs.reconcile import cancel

    async def act(runtime: Any) -> Any:
        job = await cancel(runtime.records, runtime.log, tenant, job_id)
        if job is None:
            raise NotFound(f"there is no job {job_id!r}")
        return job

    _act(data, as_json, act)


def _act(data: str | None, as_json: bool, act: Callable[[Any], Any]) -> None:
    settings = prepare({"data": data}, quiet=True).settings

    async def main() -> None:
        from ragqueue.jobs.views import job_view
        from ragqueue.wiring import open_runtime

        async with open_runtime(settings) as runtime:
            job = job_view(await act(runtime))
            await runtime.ringer.flush()
        print_json(job) if as_json else print(f"{job['id']} {job['status']}")

    run(main)


@click.group()
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command("create")
@click.argument("name")
@tenant_option
@data_option
@json_option
def keys_create(name: str, tenant: str, data: str | None, as_json: bool) -> None:
    """Make a key and print it: it is stored as a hash and cannot be shown again."""
    from ragqueue.records import keys as rows

    key = _with_records(data, lambda c: rows.create(c, tenant, name), write=True)
    print_json({"key": key, "tenant": tenant, "name": name}) if as_json else print(key)


@keys.command("list")
@data_option
@json_option
def keys_list(data: str | None, as_json: bool) -> None:
    """List keys."""
    from ragqueue.records import keys as rows

    found = [asdict(row) for row in _with_records(data, rows.listed)]
    print_json({"keys": found}) if as_json else print_table(
        ("id", "tenant", "name", "revoked"), [(k["id"], k["tenant"], k["name"], k["revoked_at"]) for k in found]
    )


@keys.command("revoke")
@click.argument("key_id")
@data_option
@json_option
def keys_revoke(key_id: str, data: str | None, as_json: bool) -> None:
    """End a key's validity, at once."""
    from ragqueue.records import keys as rows

    if not _with_records(data, lambda c: rows.revoke(c, key_id), write=True):
        _fail(f"there is no valid key {key_id!r}: `ragqueue keys list` shows those that are")
    print_json({"revoked": key_id}) if as_json else print(f"{key_id} revoked")


@click.command()
@tenant_option
@data_option
@json_option
def status(tenant: str, data: str | None, as_json: bool) -> None:
    """Show queues, workers and documents."""
    from ragqueue.records import documents, workers

    lease = prepare({"data": data}, quiet=True).settings.lease

    def read(connection: Any) -> dict[str, Any]:
        gauge = workers.gauge(connection, 2 * lease)
        ready, passages = documents.counted(connection, tenant)
        return {
            "jobs": {f"{lane} {state}": count for (lane, state), count in sorted(gauge.states.items())},
            "oldest_s": gauge.oldest, "dead_letters": gauge.dead_letters, "documents": ready, "passages": passages,
            "workers": [asdict(row) for row in workers.alive(connection, 2 * lease)],
        }  # fmt: skip

    found = _with_records(data, read)
    if as_json:
        print_json(found)
        return
    print_table(
        ("what", "count"),
        [
            *found["jobs"].items(),
            ("dead letters", found["dead_letters"]),
            ("documents", found["documents"]),
            ("passages", found["passages"]),
        ],
    )
    print_table(
        ("worker", "host", "pid", "running", "last beat s"),
        [(w["owner"], w["host"], w["pid"], w["running"], round(w["age"], 1)) for w in found["workers"]],
    )

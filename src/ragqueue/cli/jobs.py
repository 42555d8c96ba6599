"""Jobs: list, show, retry and cancel them."""

import asyncio
from typing import TYPE_CHECKING

import click

from ragqueue.cli import options
from ragqueue.cli.call import Call, existing
from ragqueue.cli.command import Group

if TYPE_CHECKING:
    from ragqueue.types import Job

COLUMNS = ("id", "kind", "status", "attempt", "tries", "deaths", "error")


@click.group("jobs", cls=Group)
def jobs_group() -> None:
    """List, show, retry and cancel jobs."""


@jobs_group.command("list")
@click.option(
    "--state",
    type=click.Choice(["queued", "running", "succeeded", "failed", "cancelled"]),
    help="Only these",
)
@click.option("--kind", help="Only these: ingest, chat or delete")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    help="Jobs to show",
)
@options.tenant
@options.data
@options.json
def jobs_list(
    state: str | None, kind: str | None, limit: int, tenant: str, data: str | None, as_json: bool
) -> None:
    """List jobs, newest first."""
    from ragqueue.jobs.views import job_view
    from ragqueue.records import jobs

    call = Call({"data": data}, as_json=as_json, tenant=tenant)
    rows = asyncio.run(
        call.read(jobs.listed, tenant, state=state, kind=kind, after=None, limit=limit)
    )
    call.show({"jobs": [job_view(job) for job in rows]}, *COLUMNS)


@jobs_group.command("show")
@click.argument("job_id")
@options.tenant
@options.data
@options.json
def jobs_show(job_id: str, tenant: str, data: str | None, as_json: bool) -> None:
    """Show a job."""
    from ragqueue.jobs.views import job_view
    from ragqueue.records import jobs

    call = Call({"data": data}, as_json=as_json, tenant=tenant)
    row = asyncio.run(call.read(jobs.get, tenant, job_id))
    job = existing(row, f"job {job_id!r}")
    call.show(job_view(job))


@jobs_group.command("retry")
@click.argument("job_id")
@options.tenant
@options.data
@options.json
def jobs_retry(job_id: str, tenant: str, data: str | None, as_json: bool) -> None:
    """Make a new job of a failed or cancelled one."""
    from ragqueue.jobs.views import job_view

    call = Call({"data": data}, as_json=as_json, tenant=tenant)
    job = asyncio.run(_retry(call, job_id))
    call.show(job_view(job))


async def _retry(call: Call, job_id: str) -> "Job":
    from ragqueue.wiring import open_runtime

    async with open_runtime(call.settings) as runtime:
        job = await runtime.desk(call.tenant).retry(job_id)
        await runtime.ringer.flush()
    return job


@jobs_group.command("cancel")
@click.argument("job_id")
@options.tenant
@options.data
@options.json
def jobs_cancel(job_id: str, tenant: str, data: str | None, as_json: bool) -> None:
    """Ask for the end of a job."""
    from ragqueue.jobs.views import job_view

    call = Call({"data": data}, as_json=as_json, tenant=tenant)
    job = asyncio.run(_cancel(call, job_id))
    call.show(job_view(job))


async def _cancel(call: Call, job_id: str) -> "Job":
    from ragqueue.wiring import open_runtime

    async with open_runtime(call.settings) as runtime:
        return await runtime.desk(call.tenant).cancel(job_id)

"""Jobs of every kind: list, look at, cancel, try again."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from ragqueue.api.access import Caller, Limit, Parts, found
from ragqueue.jobs.reconcile import cancel
from ragqueue.jobs.views import job_view
from ragqueue.records import jobs
from ragqueue.types import Job, State

router = APIRouter(tags=["jobs"])


async def job_of(job_id: str, caller: Caller, parts: Parts) -> Job:
    """Return the caller's job. Raises NotFound, also for what is another tenant's."""
    return found(await parts.records.read(jobs.get, caller.tenant, job_id), f"job {job_id!r}")


Known = Annotated[Job, Depends(job_of)]
Kind = Annotated[str | None, Query(max_length=40)]


@router.get("/jobs")
async def listing(
    caller: Caller, parts: Parts, state: State | None = None, kind: Kind = None, before: float | None = None, limit: Limit = 100
) -> dict[str, Any]:
    """List jobs, newest first; `before` (a created_at) continues the list."""
    query = partial(jobs.listed, tenant=caller.tenant, state=state, kind=kind, before=before, limit=limit)
    return {"jobs": [job_view(job) for job in await parts.records.read(query)]}


@router.get("/jobs/{job_id}")
async def show(job: Known) -> dict[str, Any]:
    """Return a job."""
    return job_view(job)


@router.post("/jobs/{job_id}/cancel")
async def stop(job: Known, parts: Parts) -> dict[str, Any]:
    """Ask for the end of a job; asking twice does no harm."""
    return job_view(await cancel(parts.records, parts.log, job.tenant, job.id) or job)


@router.post("/jobs/{job_id}/retry", status_code=202)
async def again(job: Known, parts: Parts) -> dict[str, Any]:
    """Make a new job of a failed or cancelled one; the ended one stays as it is."""
    return job_view(await parts.submitter.retry(job.tenant, job.id))

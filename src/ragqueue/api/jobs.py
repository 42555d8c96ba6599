"""Jobs of every kind: list, show, cancel, retry."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from ragqueue.api.access import OfTenant, OneJob, PageLimit, StorableText
from ragqueue.api.bodies import Jobs, JobView
from ragqueue.jobs.views import job_view
from ragqueue.types import State

router = APIRouter(tags=["jobs"])
Kind = Annotated[StorableText | None, Query(max_length=40)]
Cursor = Annotated[StorableText | None, Query(max_length=100)]


@router.get("/jobs", response_model=Jobs)
async def list_jobs(
    desk: OfTenant,
    state: State | None = None,
    kind: Kind = None,
    after: Cursor = None,
    limit: PageLimit = 100,
) -> dict[str, Any]:
    """List jobs, newest first; `next`, given as `after`, continues the list."""
    page = await desk.jobs(state=state, kind=kind, after=after, limit=limit)
    views = [job_view(job) for job in page.rows]
    return {"jobs": views, "next": page.next}


@router.get("/jobs/{job_id}", response_model=JobView)
async def show_job(job: OneJob) -> dict[str, Any]:
    """Return a job."""
    return job_view(job)


@router.post("/jobs/{job_id}/cancel", response_model=JobView)
async def cancel_job(job: OneJob, desk: OfTenant) -> dict[str, Any]:
    """Ask for the end of a job; asking twice does no harm. A delete cannot be cancelled."""
    cancelled = await desk.cancel(job.id)
    return job_view(cancelled)


@router.post("/jobs/{job_id}/retry", status_code=202, response_model=JobView)
async def retry_job(job: OneJob, desk: OfTenant) -> dict[str, Any]:
    """Make a new job of a failed or cancelled one; the ended one stays as it is."""
    new_job = await desk.retry(job.id)
    return job_view(new_job)

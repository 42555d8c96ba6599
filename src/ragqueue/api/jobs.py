"""Jobs of every kind: list, show, cancel, retry."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query

from ragqueue.api.access import Limit, Parts, Tenant, Words, owned
from ragqueue.api.bodies import Jobs, JobView
from ragqueue.errors import InvalidRequest
from ragqueue.jobs.control import cancel
from ragqueue.jobs.views import job_view
from ragqueue.records import jobs
from ragqueue.storable import check_storable
from ragqueue.types import Job, State

router = APIRouter(tags=["jobs"])
AnyJob = Annotated[Job, owned(jobs.get, "job")]
Kind = Annotated[Words | None, Query(max_length=40)]
Cursor = Annotated[Words | None, Query(max_length=100)]


@router.get("/jobs", response_model=Jobs)
async def list_jobs(
    tenant: Tenant,
    parts: Parts,
    state: State | None = None,
    kind: Kind = None,
    after: Cursor = None,
    limit: Limit = 100,
) -> dict[str, Any]:
    """List jobs, newest first; `next`, given as `after`, continues the list."""
    place = place_of(after) if after else None
    query = partial(
        jobs.listed, tenant=tenant, state=state, kind=kind, after=place, limit=limit + 1
    )
    rows = await parts.records.read(query)
    more = len(rows) > limit
    return {
        "jobs": [job_view(job) for job in rows[:limit]],
        "next": cursor_of(rows[limit - 1]) if more else None,
    }


@router.get("/jobs/{job_id}", response_model=JobView)
async def show_job(job: AnyJob) -> dict[str, Any]:
    """Return a job."""
    return job_view(job)


@router.post("/jobs/{job_id}/cancel", response_model=JobView)
async def cancel_job(job: AnyJob, parts: Parts) -> dict[str, Any]:
    """Ask for the end of a job; asking twice does no harm. A delete cannot be cancelled."""
    return job_view(await cancel(parts.records, parts.log, job.tenant, job.id) or job)


@router.post("/jobs/{job_id}/retry", status_code=202, response_model=JobView)
async def retry_job(job: AnyJob, parts: Parts) -> dict[str, Any]:
    """Make a new job of a failed or cancelled one; the ended one stays as it is."""
    return job_view(await parts.submitter.retry(job))


def cursor_of(job: Job) -> str:
    """Return the place of a job in the list, as text: many jobs have one created_at."""
    return f"{job.created_at!r}_{job.id}"


def place_of(cursor: str) -> tuple[float, str]:
    """Return (created_at, id) of a cursor. Raises InvalidRequest for what this list has never given."""
    created_at, _, job_id = cursor.partition("_")
    try:
        place = (float(created_at), job_id)
    except ValueError as error:
        raise InvalidRequest(f"after is {cursor!r}: use the `next` of the page before") from error
    check_storable("after", place)
    return place

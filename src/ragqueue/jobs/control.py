"""What is done to a job from outside: cancel it, end it over its worker's head, erase it."""

from collections.abc import Sequence

from ragqueue.errors import Conflict
from ragqueue.events.base import EventLog, fence
from ragqueue.records import jobs
from ragqueue.records.store import Records
from ragqueue.types import Job, Outcome


async def erase_jobs(records: Records, log: EventLog, ids: Sequence[tuple[str, str]]) -> None:
    """Erase ended jobs, given as (tenant, job id), with their answers and logs. Raises Unavailable."""
    await log.drop([job_id for _, job_id in ids])
    for tenant in {tenant for tenant, _ in ids}:
        await records.write(
            jobs.erase, tenant, [job_id for owner, job_id in ids if owner == tenant]
        )


async def cancel(records: Records, log: EventLog, tenant: str, job_id: str) -> Job | None:
    """Ask for the end of a job; one that waits ends at once, one that runs within a second. Returns it as it then is.

    Raises Conflict for a delete: what is hidden must be erased.
    """
    job = await records.read(jobs.get, tenant, job_id)
    if job is not None and job.kind == "delete":
        raise Conflict(f"job {job_id!r} erases a document: a deletion cannot be cancelled")
    job = await records.write(jobs.request_cancel, tenant, job_id)
    if job is not None and job.state == "queued":
        await end_unheld(records, log, job)
        job = await records.read(jobs.get, tenant, job_id)
    return job


async def end_unheld(records: Records, log: EventLog, job: Job) -> None:
    """End a job over the head of a worker that may be gone: fence its log first, so that nothing follows the end."""
    if job.attempt:
        await log.append([fence(job.id, job.attempt + 1)])
    code, said = (
        "deadline_exceeded",
        f"after {job.attempt} runs" if job.attempt else "while it waited: is a worker running?",
    )
    if job.deaths:
        code, said = (
            "dead_letter",
            f"after {job.deaths} deaths of the processes that ran it: `ragqueue jobs retry {job.id}`",
        )
    failed = Outcome("failed", None, code, f"the deadline passed {said}")
    await records.write(jobs.bury, job, Outcome("cancelled") if job.cancel_requested else failed)

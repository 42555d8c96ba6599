"""What is done to a job from outside: cancel it, end it over its worker's head, erase it."""

from collections.abc import Sequence

from ragqueue.errors import Conflict
from ragqueue.events.base import EventLog, fence
from ragqueue.records import jobs, retention
from ragqueue.records.store import Records
from ragqueue.types import Job, Outcome


async def cancel(records: Records, log: EventLog, tenant: str, job_id: str) -> Job | None:
    """Ask for the end of a job; one that waits ends at once, one that runs within a second.

    Returns it as it then is. Raises Conflict for a delete: what is hidden must be erased.
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
    """End a job over the head of a worker that may be gone.

    Its log is fenced first, so that nothing follows the end.
    """
    if job.attempt:
        await log.append([fence(job.id, job.attempt + 1)])
    if job.cancel_requested:
        outcome = Outcome(state="cancelled")
    else:
        outcome = past_its_deadline(job)
    await records.write(jobs.bury, job, outcome)


def past_its_deadline(job: Job) -> Outcome:
    """Return what a job ends with whose deadline passed, by what became of its runs."""
    if job.deaths:
        return Outcome(
            state="failed",
            error_code="dead_letter",
            error_message=(
                f"the deadline passed after {job.deaths} deaths of the processes that ran it: "
                f"`ragqueue jobs retry {job.id}`"
            ),
        )
    when = "while it waited: is a worker running?"
    if job.attempt:
        when = f"after {job.attempt} runs"
    return Outcome(
        state="failed",
        error_code="deadline_exceeded",
        error_message=f"the deadline passed {when}",
    )


async def erase_jobs(records: Records, log: EventLog, ended: Sequence[tuple[str, str]]) -> None:
    """Erase ended jobs, given as (tenant, job id), with their answers and logs.

    Raises Unavailable.
    """
    await log.drop([job_id for _, job_id in ended])
    by_tenant: dict[str, list[str]] = {}
    for tenant, job_id in ended:
        by_tenant.setdefault(tenant, []).append(job_id)
    for tenant, job_ids in by_tenant.items():
        await records.write(retention.erase, tenant, job_ids)

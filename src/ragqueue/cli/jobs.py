"""Jobs: list, show, retry and cancel them."""

from ragqueue.cli.call import Call
from ragqueue.errors import NotFound
from ragqueue.jobs.control import cancel
from ragqueue.jobs.views import job_view
from ragqueue.records import jobs


async def jobs_list(call: Call, state: str | None, kind: str | None, limit: int) -> None:
    found = await call.records(
        lambda c: jobs.listed(c, call.tenant, state=state, kind=kind, after=None, limit=limit)
    )
    call.show(
        {"jobs": [job_view(job) for job in found]},
        "id",
        "kind",
        "status",
        "attempt",
        "tries",
        "deaths",
        "error",
    )


async def jobs_show(call: Call, job_id: str) -> None:
    call.show(job_view(await call.records(jobs.get, call.tenant, job_id, wanted=f"job {job_id!r}")))


async def jobs_retry(call: Call, job_id: str) -> None:
    from ragqueue.wiring import open_runtime  # here: who lists jobs does without

    old = await call.records(jobs.get, call.tenant, job_id, wanted=f"job {job_id!r}")
    async with open_runtime(call.settings) as runtime:
        job = await runtime.submitter.retry(old)
        await runtime.ringer.flush()
    call.show(job_view(job))


async def jobs_cancel(call: Call, job_id: str) -> None:
    from ragqueue.wiring import open_runtime  # as above

    async with open_runtime(call.settings) as runtime:
        if (job := await cancel(runtime.records, runtime.log, call.tenant, job_id)) is None:
            raise NotFound(f"there is no job {job_id!r}: `ragqueue jobs list` shows what there is")
    call.show(job_view(job))

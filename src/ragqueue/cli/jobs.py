"""Jobs: list, show, retry and cancel them."""

from ragqueue.cli.call import Call
from ragqueue.jobs.views import job_view
from ragqueue.records import jobs


async def jobs_list(call: Call, state: str | None, kind: str | None, limit: int) -> None:
    rows = await call.records(
        lambda connection: jobs.listed(
            connection, call.tenant, state=state, kind=kind, after=None, limit=limit
        )
    )
    columns = ("id", "kind", "status", "attempt", "tries", "deaths", "error")
    call.show({"jobs": [job_view(job) for job in rows]}, *columns)


async def jobs_show(call: Call, job_id: str) -> None:
    job = await call.records(jobs.get, call.tenant, job_id, wanted=f"job {job_id!r}")
    call.show(job_view(job))


async def jobs_retry(call: Call, job_id: str) -> None:
    from ragqueue.wiring import open_runtime  # here: who lists jobs does without

    async with open_runtime(call.settings) as runtime:
        job = await runtime.desk(call.tenant).retry(job_id)
        await runtime.ringer.flush()
    call.show(job_view(job))


async def jobs_cancel(call: Call, job_id: str) -> None:
    from ragqueue.wiring import open_runtime  # as above

    async with open_runtime(call.settings) as runtime:
        job = await runtime.desk(call.tenant).cancel(job_id)
    call.show(job_view(job))

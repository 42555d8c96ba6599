"""Whether the process lives, whether it can accept work, and what there is to measure."""

from collections.abc import Iterator
from typing import Any, get_args

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from ragqueue import telemetry
from ragqueue.api.access import Parts
from ragqueue.errors import RagqueueError
from ragqueue.records import workers
from ragqueue.types import LANES, State

router = APIRouter(tags=["operation"])


@router.get("/livez")
async def live() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "alive"}


@router.get("/readyz")
async def ready(parts: Parts) -> Response:
    """Say whether records, event log and queue can be used; workers are reported, not needed."""
    beating = parts.records.read(workers.alive, 2 * parts.settings.lease)
    found: dict[str, Any] = {}
    checks: dict[str, str] = {}
    for name, use in {"records": beating, "events": parts.log.read({"-": 0}), "queue": parts.queue.depth("chat")}.items():
        try:
            found[name] = await use
            checks[name] = "ok"
        except RagqueueError as error:
            checks[name] = error.message
    ok, count = len(found) == len(checks), len(found.get("records", ()))
    body: dict[str, Any] = {"status": "ready" if ok else "not ready", "checks": checks, "workers": count}
    if ok and not count:
        body["note"] = "no worker is running: questions wait until one is (`ragqueue worker`)"
    return JSONResponse(body, 200 if ok else 503)


@router.get("/metrics")
async def metrics(parts: Parts) -> Response:
    """Return the metrics of this process, of all workers together, and of the records, for Prometheus."""
    gauge = await parts.records.read(workers.gauge, 2 * parts.settings.lease)
    return Response(telemetry.exposition(gauge.sums, _gauges(gauge)), media_type="text/plain; version=0.0.4; charset=utf-8")


def _gauges(gauge: workers.Gauge) -> Iterator[telemetry.Sample]:
    for lane in LANES:
        yield "ragqueue_queue_depth", {"lane": lane}, gauge.states.get((lane, "queued"), 0)
        yield "ragqueue_queue_oldest_seconds", {"lane": lane}, gauge.oldest.get(lane, 0.0)
        for state in get_args(State):
            yield "ragqueue_jobs", {"lane": lane, "state": state}, gauge.states.get((lane, state), 0)
    yield "ragqueue_job_deaths", {}, gauge.deaths
    yield "ragqueue_job_tries", {}, gauge.tries
    yield "ragqueue_dead_letters", {}, gauge.dead_letters
    yield "ragqueue_workers", {}, gauge.workers

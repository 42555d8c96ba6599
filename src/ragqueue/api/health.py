"""Whether the process lives and can work, and what it counts."""

from typing import Any, get_args

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from ragqueue import telemetry
from ragqueue.api.access import Parts
from ragqueue.api.bodies import Alive, Ready
from ragqueue.errors import RagqueueError
from ragqueue.records import gauges, workers
from ragqueue.types import LANES, State

router = APIRouter(tags=["operation"])


@router.get("/livez", response_model=Alive)
async def live() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "alive"}


@router.get(
    "/readyz",
    response_model=Ready,
    responses={503: {"model": Ready, "description": "It cannot work now"}},
)
async def ready(parts: Parts) -> Response:
    """Say whether records, event log and queue can be used; workers are reported, not needed."""
    found: dict[str, Any] = {}
    checks: dict[str, str] = {}

    async def log() -> None:
        await parts.log.check()
        await parts.log.read({"-": 0})

    async def queue() -> None:
        await parts.queue.check()
        await parts.queue.depth("chat")

    beating = parts.records.read(workers.alive, 2 * parts.settings.lease)
    for name, use in {"records": beating, "events": log(), "queue": queue()}.items():
        try:
            found[name], checks[name] = await use, "ok"
        except RagqueueError as error:
            checks[name] = error.message
    if troubled := parts.keeper.troubled():
        checks["loops"] = f"{', '.join(troubled)} of this process fail again and again: see its log"
    ok, count = len(found) == len(checks), len(found.get("records", ()))
    body: dict[str, Any] = {
        "status": "ready" if ok else "not ready",
        "checks": checks,
        "workers": count,
    }
    if ok and not count:
        body["note"] = "no worker is running: questions wait until one is (`ragqueue worker`)"
    return JSONResponse(body, 200 if ok else 503)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(parts: Parts) -> Response:
    """Return the metrics of this process, of all workers together, and of the records, for Prometheus."""
    gauge = await parts.records.read(gauges.gauge, 2 * parts.settings.lease)
    depth = [
        ("queue_depth", {"lane": lane}, gauge.states.get((lane, "queued"), 0)) for lane in LANES
    ]
    oldest = [
        ("queue_oldest_seconds", {"lane": lane}, gauge.oldest.get(lane, 0.0)) for lane in LANES
    ]
    states = [
        ("jobs", {"lane": lane, "state": state}, gauge.states.get((lane, state), 0))
        for lane in LANES
        for state in get_args(State)
    ]
    samples = [
        *depth,
        *oldest,
        *states,
        *((name, {}, value) for name, value in gauge.totals.items()),
    ]
    shown = telemetry.exposition(
        gauge.sums, [(f"ragqueue_{name}", labels, value) for name, labels, value in samples]
    )
    return Response(shown, media_type="text/plain; version=0.0.4; charset=utf-8")

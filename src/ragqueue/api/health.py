"""Whether the process lives and can work, and what it counts."""

from typing import Any, get_args

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from ragqueue import telemetry
from ragqueue.api.access import TheRuntime
from ragqueue.api.bodies import Alive, Ready
from ragqueue.errors import RagqueueError
from ragqueue.records import gauges, workers
from ragqueue.types import LANES, State
from ragqueue.wiring import Runtime

router = APIRouter(tags=["operation"])
_ENGINES = ("records", "events", "queue")  # what a process needs to work


@router.get("/livez", response_model=Alive)
async def live() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "alive"}


@router.get(
    "/readyz",
    response_model=Ready,
    responses={503: {"model": Ready, "description": "It cannot work now"}},
)
async def ready(runtime: TheRuntime) -> Response:
    """Say whether records, event log and queue can be used; workers are reported, not needed."""
    troubles: dict[str, str] = {}
    alive: list[dict[str, Any]] = []
    try:
        alive = await runtime.records.read(workers.alive, _longest_silence(runtime))
    except RagqueueError as error:
        troubles["records"] = error.message
    for name, use in (("events", _use_log), ("queue", _use_queue)):
        try:
            await use(runtime)
        except RagqueueError as error:
            troubles[name] = error.message
    loops = runtime.keeper.troubled()
    if loops:
        troubles["loops"] = f"{', '.join(loops)} of this process fail again and again: see its log"
    return _readiness(troubles, len(alive))


def _longest_silence(runtime: Runtime) -> float:
    """Return the seconds after which a worker that does not beat counts as gone."""
    return 2 * runtime.settings.lease


async def _use_log(runtime: Runtime) -> None:
    await runtime.log.check()
    await runtime.log.read({"-": 0})


async def _use_queue(runtime: Runtime) -> None:
    await runtime.queue.check()
    await runtime.queue.depth("chat")


def _readiness(troubles: dict[str, str], worker_count: int) -> Response:
    """Show what works and what does not: 503 as soon as one thing does not."""
    body: dict[str, Any] = {
        "status": "not ready" if troubles else "ready",
        "checks": dict.fromkeys(_ENGINES, "ok") | troubles,
        "workers": worker_count,
    }
    if troubles:
        return JSONResponse(body, status_code=503)
    if worker_count == 0:
        body["note"] = "no worker is running: questions wait until one is (`ragqueue worker`)"
    return JSONResponse(body)


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    description="Return the metrics of this process, of all workers together, "
    "and of the records, for Prometheus.",
)
async def metrics(runtime: TheRuntime) -> Response:
    """Return the metrics in Prometheus's text format."""
    gauge = await runtime.records.read(gauges.gauge, _longest_silence(runtime))
    text = telemetry.exposition(gauge.sums, _samples(gauge))
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _samples(gauge: gauges.Gauge) -> list[tuple[str, dict[str, str], float]]:
    """Return (name, labels, value) of each figure of the records."""
    samples: list[tuple[str, dict[str, str], float]] = []
    for lane in LANES:
        waiting = gauge.states.get((lane, "queued"), 0)
        samples.append(("ragqueue_queue_depth", {"lane": lane}, waiting))
        seconds = gauge.oldest.get(lane, 0.0)
        samples.append(("ragqueue_queue_oldest_seconds", {"lane": lane}, seconds))
        for state in get_args(State):
            count = gauge.states.get((lane, state), 0)
            samples.append(("ragqueue_jobs", {"lane": lane, "state": state}, count))
    for name, total in gauge.totals.items():
        samples.append((f"ragqueue_{name}", {}, total))
    return samples

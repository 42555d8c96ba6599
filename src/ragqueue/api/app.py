"""The HTTP application: the gate before its routes, errors as problem documents, health, metrics and the page."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, get_args

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragqueue import __version__, telemetry
from ragqueue.api import chat, documents
from ragqueue.api.access import Parts
from ragqueue.errors import InvalidRequest, NotFound, RagqueueError, RequestError, TooLarge, Unauthorised
from ragqueue.records import keys, workers
from ragqueue.types import LANES, State
from ragqueue.web import PAGE, STATIC
from ragqueue.wiring import Runtime, is_private

health = APIRouter(tags=["operation"])
PUBLIC = frozenset({"/", "/livez", "/readyz", "/metrics", "/openapi.json"})
_BODY_LIMIT = 4_000_000  # bytes of any body that is not an upload
_FORM = 100_000  # bytes of an upload besides its file
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer", "x-content-type-options": "nosniff", "cache-control": "no-cache",
}  # fmt: skip
# Said, not guessed: some registries of Windows call a script plain text, which `nosniff` then blocks.
_MEDIA = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


def create_app(runtime: Runtime) -> FastAPI:
    """Return the application that serves this runtime."""
    app = FastAPI(title="ragqueue", version=__version__, docs_url=None, redoc_url=None)
    for router in (chat.router, documents.router, health):
        app.include_router(router)
    for path, file in {"/": PAGE, **{f"/static/{name}": file for name, file in STATIC.items()}}.items():
        page = FileResponse(file, headers=_PAGE_HEADERS, media_type=_MEDIA[file.suffix])
        app.router.routes.append(Route(path, page, methods=["GET"], include_in_schema=False))
    for kind in (RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _refused)
    app.add_middleware(Gate, runtime=runtime)
    return app


class Gate:
    """Lets requests of valid keys through (without any key in use, everybody where only this host can knock); shows errors of ours."""

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self._app, self._runtime = app, runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path, size = scope["path"], 0
        limit = self._runtime.settings.max_upload + _FORM if (scope["method"], path) == ("POST", "/documents") else _BODY_LIMIT

        async def counted() -> Message:  # a body need not say its length
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise TooLarge(f"the body is larger than {limit:,} bytes")
            return message

        state = scope.setdefault("state", {})
        state["runtime"] = self._runtime
        try:
            if path not in PUBLIC and not path.startswith("/static/"):
                state["tenant"], state["caller"] = await self._known(Headers(scope=scope).get("authorization", ""))
            await self._app(scope, counted, send)
        except RagqueueError as error:
            await _problem(error, path)(scope, receive, send)

    async def _known(self, authorization: str) -> tuple[str, str]:
        """Return (tenant, caller). Raises Unauthorised."""
        (scheme, _, key), records = authorization.partition(" "), self._runtime.records
        if key and scheme.lower() == "bearer":
            if (known := await records.read(keys.verify, key.strip())) is None:
                raise Unauthorised("the API key is not valid: `ragqueue keys list` shows which are")
            return known
        if not is_private(self._runtime.settings) or await records.read(keys.any_valid):
            raise Unauthorised("an API key is needed: send `Authorization: Bearer KEY`")
        return "default", "local"


async def _refused(request: Request, error: Any) -> JSONResponse:
    """Show what the framework refuses (a wrong method, say), or raise it for the gate to show, when an error of ours says it better."""
    match error:
        case RequestValidationError():
            said = (f"{'.'.join(map(str, item['loc'][1:])) or 'body'}: {item['msg']}" for item in error.errors())
            raise InvalidRequest("; ".join(said))
        case HTTPException(__cause__=RagqueueError() as cause):  # of ours, while FastAPI read the body
            raise cause
        case HTTPException(status_code=404):
            raise NotFound(f"there is nothing at {request.url.path!r}")
    return _problem(RequestError(str(error.detail)), request.url.path, error.status_code, error.headers)


def _problem(error: RagqueueError, path: str, status: int | None = None, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return an error as RFC 9457 wants it, with OpenAI's envelope as an extension member."""
    status = status or error.status
    telemetry.REFUSED.labels(error.code).inc()
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    body: dict[str, Any] = {
        "type": f"https://ragqueue.dev/errors#{error.code}", "title": HTTPStatus(status).phrase, "status": status, "detail": error.message,
        "instance": path, "code": error.code, "error": {"message": error.message, "type": kind, "code": error.code, "param": None},
    }  # fmt: skip
    shown = dict(headers or {})
    if error.retry_after or status == 503:
        shown["retry-after"] = str(max(1, math.ceil(error.retry_after or 2)))
    if status == 401:
        shown["www-authenticate"] = "Bearer"
    return JSONResponse(body, status, shown, media_type="application/problem+json")


@health.get("/livez")
async def live() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "alive"}


@health.get("/readyz")
async def ready(parts: Parts) -> Response:
    """Say whether records, event log and queue can be used; workers are reported, not needed."""
    found: dict[str, Any] = {}
    checks: dict[str, str] = {}
    beating = parts.records.read(workers.alive, 2 * parts.settings.lease)
    for name, use in {"records": beating, "events": parts.log.read({"-": 0}), "queue": parts.queue.depth("chat")}.items():
        try:
            found[name], checks[name] = await use, "ok"
        except RagqueueError as error:
            checks[name] = error.message
    if troubled := parts.keeper.troubled():
        checks["loops"] = f"{', '.join(troubled)} of this process fail again and again: see its log"
    ok, count = len(found) == len(checks), len(found.get("records", ()))
    body: dict[str, Any] = {"status": "ready" if ok else "not ready", "checks": checks, "workers": count}
    if ok and not count:
        body["note"] = "no worker is running: questions wait until one is (`ragqueue worker`)"
    return JSONResponse(body, 200 if ok else 503)


@health.get("/metrics")
async def metrics(parts: Parts) -> Response:
    """Return the metrics of this process, of all workers together, and of the records, for Prometheus."""
    gauge = await parts.records.read(workers.gauge, 2 * parts.settings.lease)
    depth = [("queue_depth", {"lane": lane}, gauge.states.get((lane, "queued"), 0)) for lane in LANES]
    oldest = [("queue_oldest_seconds", {"lane": lane}, gauge.oldest.get(lane, 0.0)) for lane in LANES]
    states = [("jobs", {"lane": lane, "state": state}, gauge.states.get((lane, state), 0)) for lane in LANES for state in get_args(State)]
    samples = [*depth, *oldest, *states, *((name, {}, value) for name, value in gauge.totals.items())]
    shown = telemetry.exposition(gauge.sums, [(f"ragqueue_{name}", labels, value) for name, labels, value in samples])
    return Response(shown, media_type="text/plain; version=0.0.4; charset=utf-8")

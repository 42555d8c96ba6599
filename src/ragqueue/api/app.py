"""The HTTP application: its routes, the gate before them, the page, and errors as problem documents."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragqueue import __version__, telemetry
from ragqueue.api import chat, documents, health, jobs
from ragqueue.api.access import Principal
from ragqueue.errors import InvalidRequest, NotFound, RagqueueError, RequestError, TooLarge, Unauthorised
from ragqueue.records import keys
from ragqueue.web import PAGE, STATIC
from ragqueue.wiring import Runtime, is_private

PUBLIC = frozenset({"/", "/livez", "/readyz", "/metrics", "/openapi.json"})
_BODY_LIMIT = 4_000_000  # bytes of any body that is not an upload
_FORM = 100_000  # bytes of an upload besides its file
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def create_app(runtime: Runtime) -> FastAPI:
    """Return the application that serves this runtime."""
    app = FastAPI(title="ragqueue", version=__version__, docs_url=None, redoc_url=None)
    for room in (chat, documents, jobs, health):
        app.include_router(room.router)
    app.add_api_route("/", _page, include_in_schema=False)
    app.add_api_route("/static/{name}", _static, include_in_schema=False)
    for kind in (RagqueueError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _refused)
    app.add_middleware(Gate, runtime=runtime)
    return app


class Gate:
    """Lets requests of valid keys through; without any key in use, everybody where only this host can knock."""

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self._app, self._runtime = app, runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers, path, size = Headers(scope=scope), scope["path"], 0
        is_upload = (scope["method"], path) == ("POST", "/documents")
        limit = self._runtime.settings.max_upload + _FORM if is_upload else _BODY_LIMIT

        async def counted() -> Message:  # a body need not say its length
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            _refuse_above(limit, size)
            return message

        state = scope.setdefault("state", {})
        state["runtime"] = self._runtime
        try:
            if path not in PUBLIC and not path.startswith("/static/"):
                state["principal"] = await self._principal(headers.get("authorization", ""))
            _refuse_above(limit, int(headers.get("content-length") or 0))
            await self._app(scope, counted, send)
        except RagqueueError as error:
            await _problem(error, path)(scope, receive, send)

    async def _principal(self, authorization: str) -> Principal:
        scheme, _, key = authorization.partition(" ")
        if key and scheme.lower() == "bearer":
            found = await self._runtime.records.read(keys.verify, key.strip())
            if found is None:
                raise Unauthorised("the API key is not valid: `ragqueue keys list` shows which are")
            return Principal(*found)
        if not is_private(self._runtime.settings) or await self._runtime.records.read(keys.any_valid):
            raise Unauthorised("an API key is needed: send `Authorization: Bearer KEY`")
        return Principal("default", "local")


def _refuse_above(limit: int, size: int) -> None:
    if size > limit:
        raise TooLarge(f"the body is larger than {limit:,} bytes")


async def _refused(request: Request, error: Any) -> JSONResponse:
    """Show an error of ours, what FastAPI found wrong with a request, or the framework's: an unknown path, a wrong method."""
    path = request.url.path
    match error:
        case RequestValidationError():
            error = InvalidRequest("; ".join(map(_said, error.errors())))
        case HTTPException(__cause__=RagqueueError() as cause):  # of ours, while FastAPI read the body
            error = cause
        case HTTPException(status_code=404):
            error = NotFound(f"there is nothing at {path!r}")
        case HTTPException():
            return _problem(RequestError(str(error.detail)), path, error.status_code, error.headers)
    return _problem(error, path)


def _said(item: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in item["loc"] if part not in ("body", "query", "header", "path"))
    return f"{where or 'body'}: {item['msg'][0].lower()}{item['msg'][1:]}"


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


async def _page() -> Response:
    return FileResponse(PAGE, headers=_PAGE_HEADERS)


async def _static(name: str) -> Response:
    if name not in STATIC:
        raise NotFound(f"there is nothing at '/static/{name}'")
    # Said, not guessed: some registries of Windows call a script plain text, which `nosniff` then blocks.
    return FileResponse(STATIC[name], headers=_PAGE_HEADERS, media_type="text/javascript" if name.endswith(".js") else "text/css")

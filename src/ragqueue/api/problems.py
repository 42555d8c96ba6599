"""Errors as RFC 9457 problem documents, with OpenAI's envelope as an extension member."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse

from ragqueue import telemetry
from ragqueue.errors import InvalidRequest, NotFound, RagqueueError, RequestError

_TYPE = "https://ragqueue.dev/errors#"


def problem(error: RagqueueError, instance: str) -> JSONResponse:
    """Return the response for an error."""
    status = error.status
    telemetry.REFUSED.labels(error.code).inc()
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    body: dict[str, Any] = {
        "type": _TYPE + error.code, "title": HTTPStatus(status).phrase, "status": status, "detail": error.message, "instance": instance,
        "code": error.code, "error": {"message": error.message, "type": kind, "code": error.code, "param": None},
    }  # fmt: skip
    headers = {"retry-after": str(max(1, math.ceil(error.retry_after)))} if error.retry_after else {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status == 503:
        headers.setdefault("retry-after", "2")
    return JSONResponse(body, status, headers, media_type="application/problem+json")


async def ours(request: Request, error: Exception) -> JSONResponse:
    """Show an error of ragqueue."""
    assert isinstance(error, RagqueueError)
    return problem(error, request.url.path)


async def invalid(request: Request, error: Exception) -> JSONResponse:
    """Show what FastAPI found wrong with a request."""
    assert isinstance(error, RequestValidationError)
    return problem(InvalidRequest("; ".join(_said(item) for item in error.errors())), request.url.path)


async def http_error(request: Request, error: Any) -> JSONResponse:
    """Show an error of the framework: an unknown path, a wrong method."""
    if error.status_code == 404:
        return problem(NotFound(f"there is nothing at {request.url.path!r}"), request.url.path)
    shown = RequestError(str(error.detail))
    shown.status = error.status_code  # type: ignore[misc]
    response = problem(shown, request.url.path)
    response.headers.update(error.headers or {})
    return response


def _said(item: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in item["loc"] if part not in ("body", "query", "header", "path"))
    return f"{where or 'body'}: {item['msg'][0].lower()}{item['msg'][1:]}"

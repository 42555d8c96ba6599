"""Errors as RFC 9457 problem documents, with OpenAI's envelope as an extension member."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ragqueue import telemetry
from ragqueue.errors import InvalidRequest, NotFound, RagqueueError, RequestError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 2.0  # seconds, where nobody knows better


def problem(
    error: RagqueueError,
    path: str,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return an error as a response, and count it."""
    status = status or error.status
    telemetry.REFUSED.labels(error.code).inc()
    shown = dict(headers or {})
    if error.retry_after or status == HTTPStatus.SERVICE_UNAVAILABLE:
        shown["retry-after"] = str(max(1, math.ceil(error.retry_after or RETRY_AFTER)))
    if status == HTTPStatus.UNAUTHORIZED:
        shown["www-authenticate"] = "Bearer"
    return JSONResponse(_body(error, path, status), status, shown, media_type=MEDIA_TYPE)


def _body(error: RagqueueError, path: str, status: int) -> dict[str, Any]:
    openai = {
        "message": error.message,
        "type": _openai_type(status),
        "code": error.code,
        "param": None,
    }
    return {
        "type": f"https://ragqueue.dev/errors#{error.code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.message,
        "instance": path,
        "code": error.code,
        "error": openai,
    }


def _openai_type(status: int) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"


async def refused(request: Request, error: Exception) -> JSONResponse:
    """Show what the framework refuses: a value outside what is allowed, a wrong method or path."""
    path = request.url.path
    if isinstance(error, RequestValidationError):
        return problem(InvalidRequest("; ".join(map(_explained, error.errors()))), path)
    if isinstance(error.__cause__, RagqueueError):  # one of ours, while FastAPI read the body
        return problem(error.__cause__, path)
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        return problem(NotFound(f"there is nothing at {path!r}"), path)
    return problem(RequestError(str(error.detail)), path, error.status_code, error.headers)


def _explained(item: Mapping[str, Any]) -> str:
    place = ".".join(map(str, item["loc"][1:])) or "body"
    return f"{place}: {item['msg']}"

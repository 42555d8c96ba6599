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
    """Return an error as a response, and count it.

    `status`, `headers`: where the response differs from what the error says.
    """
    status = status or error.status
    telemetry.REFUSED.labels(error.code).inc()
    all_headers = dict(headers or {})
    if error.retry_after or status == HTTPStatus.SERVICE_UNAVAILABLE:
        seconds = math.ceil(error.retry_after or RETRY_AFTER)
        all_headers["retry-after"] = str(max(1, seconds))
    if status == HTTPStatus.UNAUTHORIZED:
        all_headers["www-authenticate"] = "Bearer"
    return JSONResponse(
        _body(error, path, status),
        status_code=status,
        headers=all_headers,
        media_type=MEDIA_TYPE,
    )


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
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return "invalid_request_error"
    return "server_error"


async def show_refusal(request: Request, error: Exception) -> JSONResponse:
    """Show what the framework refuses: a value outside what is allowed, a wrong method or path."""
    path = request.url.path
    if isinstance(error, RequestValidationError):
        reasons = [_reason(fault) for fault in error.errors()]
        return problem(InvalidRequest("; ".join(reasons)), path)
    cause = error.__cause__
    if isinstance(cause, RagqueueError):  # an error of ours, while FastAPI read the body
        return problem(cause, path)
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        return problem(NotFound(f"there is nothing at {path!r}"), path)
    return problem(
        RequestError(str(error.detail)), path, status=error.status_code, headers=error.headers
    )


def _reason(fault: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, as "its.place: the reason"."""
    keys = [str(key) for key in fault["loc"][1:]]
    place = ".".join(keys) or "body"
    return f"{place}: {fault['msg']}"

"""Who is asking: one place turns a request into a principal, before its body is read."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from pydantic import AfterValidator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragqueue.api.problems import problem
from ragqueue.errors import RagqueueError, TooLarge, Unauthorised
from ragqueue.records import keys
from ragqueue.wiring import Runtime

PUBLIC = frozenset({"/", "/livez", "/readyz", "/metrics", "/openapi.json"})
LOCAL_TENANT = "default"
_BODY_LIMIT = 4_000_000  # bytes of any body that is not an upload


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, and whose data that may touch."""

    tenant: str
    caller: str


class Gate:
    """Lets requests of valid keys through; without any key in use, those to a loopback address."""

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self._app, self._runtime = app, runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            if not (scope["path"] in PUBLIC or scope["path"].startswith("/static/")):
                scope.setdefault("state", {})["principal"] = await self._principal(Headers(scope=scope))
            limit = self._limit(scope)
            if int(Headers(scope=scope).get("content-length") or 0) > limit:
                raise TooLarge(f"the body is larger than {limit:,} bytes")
            await self._app(scope, _Limited(receive, limit), send)
        except RagqueueError as error:
            await problem(error, scope["path"])(scope, receive, send)

    async def _principal(self, headers: Headers) -> Principal:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if key and scheme.lower() == "bearer":
            found = await self._runtime.records.read(keys.verify, key.strip())
            if found is None:
                raise Unauthorised("the API key is not valid: `ragqueue keys list` shows which are")
            return Principal(*found)
        if await self._runtime.records.read(keys.any_valid):
            raise Unauthorised("an API key is needed: send `Authorization: Bearer KEY`")
        return Principal(LOCAL_TENANT, "local")

    def _limit(self, scope: Scope) -> int:
        is_upload = scope["path"] == "/documents" and scope["method"] == "POST"
        return self._runtime.settings.max_upload + 100_000 if is_upload else _BODY_LIMIT


class _Limited:
    """Counts a body that does not say its length."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._left, self._limit = receive, limit, limit

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise TooLarge(f"the body is larger than {self._limit:,} bytes")
        return message


def principal_of(request: Request) -> Principal:
    """Return who asks."""
    principal: Principal = request.state.principal
    return principal


def runtime_of(request: Request) -> Runtime:
    """Return the process's runtime."""
    runtime: Runtime = request.app.state.runtime
    return runtime


def _encodable(text: str) -> str:
    """Refuse what no store can hold: half of a surrogate pair, a NUL."""
    if "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("it holds a NUL or half of a surrogate pair, which is no text")
    return text


Words = Annotated[str, AfterValidator(_encodable)]
Caller = Annotated[Principal, Depends(principal_of)]
Parts = Annotated[Runtime, Depends(runtime_of)]

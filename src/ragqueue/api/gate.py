"""The gate before every route: who may come in, how large a body may be, what an error becomes.

Without any key the server is open to this host alone, and a browser of this host visits foreign
pages. So Host (against DNS rebinding), Origin and Sec-Fetch-Site are looked at:
https://fetch.spec.whatwg.org, https://www.w3.org/TR/fetch-metadata.
"""

import ipaddress
import logging
from collections.abc import Collection
from functools import partial
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragqueue.api.problems import problem
from ragqueue.api.streams import Streams
from ragqueue.errors import Forbidden, RagqueueError, TooLarge, Unauthorised
from ragqueue.records import keys
from ragqueue.records.store import Records
from ragqueue.wiring import Runtime, is_private

PUBLIC = frozenset({"/", "/livez", "/readyz", "/openapi.json"})
LOCAL = "local"  # the caller where no key is needed
BODY_LIMIT = 4_000_000  # bytes of any body that is not an upload
FORM = 100_000  # bytes of an upload besides its file
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host")
logger = logging.getLogger(__name__)


class Keyring:
    """The keys as this process knows them: open streams look here, at no cost."""

    def __init__(self, records: Records) -> None:
        self._records = records
        # Not the valid ones: a key that was made after the last look is none of them,
        # a revoked one stays revoked.
        self._revoked: frozenset[str] = frozenset()
        self._ever_made = False

    async def ever_made(self) -> bool:
        """Say whether there has ever been a key: from then on, no key means no entry."""
        if not self._ever_made:
            self._ever_made = await self._records.read(keys.any_made)
        return self._ever_made

    async def look(self) -> None:
        """Learn which keys were revoked."""
        self._revoked = await self._records.read(keys.revoked_ids)
        await self.ever_made()

    def admits(self, caller: str) -> bool:
        """Say whether a caller who came in once may still be here, as of the last look."""
        if caller == LOCAL:
            return not self._ever_made
        return caller not in self._revoked


class Gate:
    """Lets in who may come in; turns errors into problem documents."""

    def __init__(self, app: ASGIApp, runtime: Runtime, keyring: Keyring, streams: Streams) -> None:
        self._app = app
        self._runtime = runtime
        self._keyring = keyring
        self._streams = streams
        self._private = is_private(runtime.settings)
        self._hosts = frozenset(name.lower() for name in runtime.settings.allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request (ASGI, https://asgi.readthedocs.io/en/latest/specs/www.html)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        stream_callers: list[str] = []  # those for whom this request counts as a stream
        try:
            await self._enter(scope, stream_callers)
            await self._app(scope, _limited(receive, self._body_limit(scope)), send_and_note)
        except Exception as error:
            if begun:  # too late for another answer: the connection breaks off
                logger.exception("api.broke_off path=%s", scope["path"])
                raise
            await self._answer_error(error, scope, receive, send)
        finally:
            for caller in stream_callers:
                self._streams.leave(caller)

    async def _answer_error(
        self, error: Exception, scope: Scope, receive: Receive, send: Send
    ) -> None:
        path = scope["path"]
        if not isinstance(error, RagqueueError):
            logger.error("api.bug path=%s", path, exc_info=error)
            error = RagqueueError("this is a fault of the server's: its log says more")
        response = problem(error, path)
        await response(scope, receive, send)

    def _body_limit(self, scope: Scope) -> int:
        if scope["method"] == "POST" and scope["path"] == "/documents":
            return self._runtime.settings.max_upload + FORM
        return BODY_LIMIT

    async def _enter(self, scope: Scope, stream_callers: list[str]) -> None:
        """Note in the request's state who asks. Raises Unauthorised, Forbidden."""
        state: dict[str, Any] = scope.setdefault("state", {})
        state["runtime"] = self._runtime
        identity = await self._identify(scope)
        if identity is None:
            return
        tenant, caller = identity
        state["desk"] = self._runtime.desk(tenant, caller)
        state["welcome"] = partial(self._keyring.admits, caller)
        state["count_stream"] = partial(self._count_stream, caller, stream_callers)

    async def _identify(self, scope: Scope) -> tuple[str, str] | None:
        """Return (tenant, caller), None where nobody needs to be known.

        Raises Unauthorised, Forbidden.
        """
        headers = Headers(scope=scope)
        path = scope["path"]
        if self._private and not await self._keyring.ever_made():
            navigates = path in PUBLIC and scope["method"] == "GET"
            check_neighbour(headers, navigates=navigates, allowed=self._hosts)
            return "default", LOCAL  # a key that nobody asked for is ignored
        if path in PUBLIC or path.startswith("/static/"):
            return None
        return await self._verify(headers.get("authorization", ""))

    async def _verify(self, authorization: str) -> tuple[str, str]:
        """Return (tenant, caller) of a key. Raises Unauthorised."""
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthorised("an API key is needed: send `Authorization: Bearer KEY`")
        identity = await self._runtime.records.read(keys.verify, key.strip())
        if identity is None:
            raise Unauthorised("the API key is not valid: `ragqueue keys list` shows which are")
        return identity

    def _count_stream(self, caller: str, stream_callers: list[str]) -> None:
        """Count a request as a stream until it ends. Raises TooManyStreams."""
        self._streams.enter(caller)
        stream_callers.append(caller)


def check_neighbour(headers: Headers, *, navigates: bool, allowed: Collection[str] = ()) -> None:
    """Raise Forbidden when a page of another origin may have sent a request, or a proxy passed it.

    `navigates`: the request may be a person's who follows a link to the page.
    `allowed`: names of Host besides loopback's.
    """
    _check_host(headers, allowed)
    if not allowed:
        _check_direct(headers)
    _check_origin(headers)
    _check_site(headers, navigates=navigates)


def _check_host(headers: Headers, allowed: Collection[str]) -> None:
    host = headers.get("host", "")
    name = host_name(host)
    if is_loopback(name) or name in allowed:
        return
    raise Forbidden(
        f"Host is {host!r:.100}: without an API key only this host may ask. "
        "RAGQUEUE_ALLOWED_HOSTS lists more names, `ragqueue keys create NAME` makes a key"
    )


def _check_direct(headers: Headers) -> None:
    """Raise Forbidden when a proxy passed the request on."""
    if any(header in headers for header in _FORWARDED):
        raise Forbidden(
            "the request came through a proxy, and there is no API key: "
            "anybody could read every document. Make one with `ragqueue keys create NAME`, "
            "or set RAGQUEUE_ALLOWED_HOSTS when the proxy asks for passwords"
        )


def _check_origin(headers: Headers) -> None:
    origin = headers.get("origin")
    if origin is None:
        return
    origin_host = origin.lower().partition("://")[2]
    if origin_host != headers.get("host", "").lower():
        raise Forbidden(
            f"Origin is {origin!r:.100}: without an API key no page of another origin may ask"
        )


def _check_site(headers: Headers, *, navigates: bool) -> None:
    site = headers.get("sec-fetch-site", "none")
    if site in ("none", "same-origin"):
        return
    follows_link = navigates and headers.get("sec-fetch-mode") == "navigate"
    if not follows_link:
        raise Forbidden(
            f"Sec-Fetch-Site is {site!r:.40}: without an API key no page of another origin may ask"
        )


def host_name(host: str) -> str:
    """Return the name or address of a Host header, without its port."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    if name.count(":") > 1:
        return name  # an IPv6 address without brackets has no port
    return name.partition(":")[0]


def is_loopback(name: str) -> bool:
    """Say whether a name or address can only mean this host."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _limited(receive: Receive, limit: int) -> Receive:
    """Return `receive` with a limit in bytes: a body need not say its length.

    It raises TooLarge.
    """
    size = 0

    async def receive_within_limit() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise TooLarge(f"the body is larger than {limit:,} bytes")
        return message

    return receive_within_limit

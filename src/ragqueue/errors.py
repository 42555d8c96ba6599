"""Every error that ragqueue raises on purpose, by who must act: the operator, the caller, or nobody (a service failed)."""

import re

_SCHEME = re.compile(r"[A-Za-z][\w+.:-]*")
_HOST = re.compile(r"(?:[\w.-]*|\[[0-9a-fA-F:.%]+\])(?::\d{1,5})?")


def without_password(url: object) -> str:
    """Return a URL, or whatever else a setting says, as a message or a print may show it.

    Of a URL: scheme, host, port, path and the names in its query; what cannot be told apart from a secret is hidden.
    """
    text = str(url)
    scheme, mark, rest = text.partition("://")
    if not mark:
        hides = "@" in text and not re.search(r"\s", text)
        return f"****@{text.rpartition('@')[2]}" if hides else text
    if not _SCHEME.fullmatch(scheme):
        return text  # a text that mentions a URL
    user, at, place = rest.rpartition("@")
    place, _, query = place.partition("#")[0].partition("?")
    host, slash, path = place.partition("/")
    if "?" in user or not _HOST.fullmatch(
        host
    ):  # a secret that broke the URL may stand anywhere in it
        return f"{scheme}://****"
    hidden = "&".join(f"{pair.partition('=')[0]}=****" for pair in query.split("&"))
    return f"{scheme}://{'****@' if at else ''}{host}{slash}{path}{f'?{hidden}' if query else ''}"


def told(error: BaseException) -> str:
    """Return what an error says, or at least its name: many time-outs say nothing."""
    return str(error) or type(error).__name__


class RagqueueError(Exception):
    """An error with a stable code, an HTTP status, and whether a retry helps; a subclass says only what differs from its parent."""

    code, status, retryable = "internal_error", 500, False

    def __init_subclass__(cls, *, code: str = "", status: int = 0, retryable: bool = False) -> None:
        cls.code, cls.status, cls.retryable = (
            code or cls.code,
            status or cls.status,
            retryable or cls.retryable,
        )

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        message = message or f"{type(self).__name__}: {self.__doc__}"  # no error says nothing
        super().__init__(message)
        self.message, self.code, self.retry_after = (
            message,
            code or self.code,
            retry_after,
        )  # seconds
        self.retryable = self.retryable if retryable is None else retryable


class ConfigError(RagqueueError, code="config_error"):
    """A setting is missing, unknown or contradicts another; a command ends with status 2."""


CONFIG_CODES = {  # the kinds of ConfigError that have a code of their own
    "missing_extra": "An adapter was chosen whose packages are not installed.",
    "model_not_configured": "A model is named but nothing says where it is served.",
    "database_mismatch": "The broker belongs to another database than this process uses.",
    "database_too_new": "The data folder was written by a newer version.",
    "unsafe_sqlite": "A second process would write through a SQLite that can corrupt its file.",
}


class RequestError(RagqueueError, code="bad_request", status=400):
    """The caller asked for something that cannot be done as asked."""


class InvalidRequest(RequestError, code="invalid_request", status=422):
    """A value is outside what is allowed."""


class Unauthorised(RequestError, code="unauthorised", status=401):
    """No valid API key was given."""


class Forbidden(RequestError, code="forbidden", status=403):
    """Without an API key only this host may ask, and no page of another origin in its browser."""


class NotFound(RequestError, code="not_found", status=404):
    """The thing does not exist, or belongs to another tenant."""


class Conflict(RequestError, code="conflict", status=409):
    """The thing is in a state that forbids the act."""


class IdempotencyConflict(RequestError, code="idempotency_conflict", status=422):
    """An Idempotency-Key was used before with another body."""


class TooLarge(RequestError, code="too_large", status=413):
    """The body or file is larger than the limit."""


class UnsupportedMedia(RequestError, code="unsupported_media_type", status=415):
    """No parser reads this media type."""


class QueueFull(RequestError, code="queue_full", status=429, retryable=True):
    """Too many jobs wait; `retry_after` says when to come back."""


class TooManyStreams(RequestError, code="too_many_streams", status=429, retryable=True):
    """A caller holds too many streams open."""


class UnreadableDocument(RequestError, code="unreadable_document", status=422):
    """A file cannot be turned into text; the message names the cause."""


class BackendError(RagqueueError, code="backend_error", status=502):
    """A service that ragqueue depends on failed."""


class Unavailable(BackendError, code="unavailable", status=503, retryable=True):
    """A service cannot be reached or is overloaded; the same call may work later."""


class StoreFull(BackendError, code="store_full", status=507, retryable=True):
    """The disk under the data folder is full; nothing was acknowledged."""


class GenerationFailed(BackendError, code="generation_failed", retryable=True):
    """A model refused, broke off or answered nonsense."""


class LeaseLost(RagqueueError, code="lease_lost"):
    """The run is no longer the job's current one; it must stop and write nothing."""

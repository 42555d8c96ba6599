"""Every error that ragqueue raises on purpose, by who must act.

The operator (ConfigError), the caller (RequestError), or nobody: a service failed (BackendError).
"""

import re

_SCHEME = re.compile(r"[A-Za-z][\w+.:-]*")
_HOST = re.compile(r"(?:[\w.-]*|\[[0-9a-fA-F:.%]+\])(?::\d{1,5})?")


def without_password(url: object) -> str:
    """Return a URL, or whatever else a setting says, as a message or a print may show it.

    Of a URL: scheme, host, port, path and the names in its query; what cannot be told apart from a
    secret is hidden.
    """
    text = str(url)
    scheme, mark, rest = text.partition("://")
    if not mark:
        if "@" in text and not re.search(r"\s", text):
            return f"****@{text.rpartition('@')[2]}"
        return text
    if not _SCHEME.fullmatch(scheme):
        return text  # a text that mentions a URL
    user, at, place = rest.rpartition("@")
    place, _, query = place.partition("#")[0].partition("?")
    host, slash, path = place.partition("/")
    if "?" in user or not _HOST.fullmatch(host):
        return f"{scheme}://****"  # a secret that broke the URL may stand anywhere in it
    visible = f"{scheme}://{host}{slash}{path}"
    if at:
        visible = f"{scheme}://****@{host}{slash}{path}"
    if query:
        names = [pair.partition("=")[0] for pair in query.split("&")]
        visible += "?" + "&".join(f"{name}=****" for name in names)
    return visible


def told(error: BaseException) -> str:
    """Return what an error says, or at least its name: many time-outs say nothing."""
    return str(error) or type(error).__name__


class RagqueueError(Exception):
    """An error with a stable code, an HTTP status, and whether a retry helps.

    A subclass says only what differs from its parent.
    """

    code = "internal_error"
    status = 500
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        """`code` and `retryable`: where this error differs from its class;

        `retry_after`: seconds.
        """
        self.message = message or f"{type(self).__name__}: {self.__doc__}"  # no error says nothing
        self.retry_after = retry_after
        if code:
            self.code = code
        if retryable is not None:
            self.retryable = retryable
        super().__init__(self.message)


class ConfigError(RagqueueError):
    """A setting is missing, unknown or contradicts another; a command ends with status 2."""

    code = "config_error"


CONFIG_CODES = {  # the kinds of ConfigError that have a code of their own
    "missing_extra": "An adapter was chosen whose packages are not installed.",
    "model_not_configured": "A model is named but nothing says where it is served.",
    "database_mismatch": "The broker belongs to another database than this process uses.",
    "database_too_new": "The data folder was written by a newer version.",
    "unsafe_sqlite": "A second process would write through a SQLite that can corrupt its file.",
}


class RequestError(RagqueueError):
    """The caller asked for something that cannot be done as asked."""

    code = "bad_request"
    status = 400


class InvalidRequest(RequestError):
    """A value is outside what is allowed."""

    code = "invalid_request"
    status = 422


class Unauthorised(RequestError):
    """No valid API key was given."""

    code = "unauthorised"
    status = 401


class Forbidden(RequestError):
    """Without an API key only this host may ask, and no page of another origin in its browser."""

    code = "forbidden"
    status = 403


class NotFound(RequestError):
    """The thing does not exist, or belongs to another tenant."""

    code = "not_found"
    status = 404


class Conflict(RequestError):
    """The thing is in a state that forbids the act."""

    code = "conflict"
    status = 409


class IdempotencyConflict(RequestError):
    """An Idempotency-Key was used before with another body."""

    code = "idempotency_conflict"
    status = 422


class TooLarge(RequestError):
    """The body or file is larger than the limit."""

    code = "too_large"
    status = 413


class UnsupportedMedia(RequestError):
    """No parser reads this media type."""

    code = "unsupported_media_type"
    status = 415


class QueueFull(RequestError):
    """Too many jobs wait; `retry_after` says when to come back."""

    code = "queue_full"
    status = 429
    retryable = True


class TooManyStreams(RequestError):
    """A caller holds too many streams open."""

    code = "too_many_streams"
    status = 429
    retryable = True


class UnreadableDocument(RequestError):
    """A file cannot be turned into text; the message names the cause."""

    code = "unreadable_document"
    status = 422


class BackendError(RagqueueError):
    """A service that ragqueue depends on failed."""

    code = "backend_error"
    status = 502


class Unavailable(BackendError):
    """A service cannot be reached or is overloaded; the same call may work later."""

    code = "unavailable"
    status = 503
    retryable = True


class StoreFull(BackendError):
    """The disk under the data folder is full; nothing was acknowledged."""

    code = "store_full"
    status = 507
    retryable = True


class GenerationFailed(BackendError):
    """A model refused, broke off or answered nonsense."""

    code = "generation_failed"
    retryable = True


class LeaseLost(RagqueueError):
    """The run is no longer the job's current one; it must stop and write nothing."""

    code = "lease_lost"

"""Every error that ragqueue raises on purpose.

RagqueueError
├── ConfigError               the operator must act; the command exits with status 2
│   ├── MissingExtra
│   ├── ModelNotConfigured
│   ├── DatabaseMismatch
│   ├── DatabaseTooNew
│   └── UnsafeSqlite
├── RequestError              the caller must act
│   ├── InvalidRequest        422
│   ├── Unauthorised          401
│   ├── NotFound              404, also for what belongs to another tenant
│   ├── Conflict              409
│   ├── IdempotencyConflict   422
│   ├── TooLarge              413
│   ├── UnsupportedMedia      415
│   ├── QueueFull             429
│   └── UnreadableDocument    the file is empty, encrypted, damaged or lies about its type
├── BackendError              a service failed
│   ├── Unavailable           cannot be reached or is overloaded; a retry helps
│   ├── StoreFull             507, no room on the disk; nothing was acknowledged
│   └── GenerationFailed      a model refused, broke off or answered nonsense
└── LeaseLost                 the run is no longer the job's current one; it must stop and write nothing
"""

from typing import ClassVar


class RagqueueError(Exception):
    """An error with a stable code, an HTTP status, and whether a retry helps."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: bool = False
    retry_after: float | None = None  # seconds

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        if retry_after is not None:
            self.retry_after = retry_after


class ConfigError(RagqueueError):
    """A setting is missing, unknown or contradicts another."""

    code = "config_error"


class MissingExtra(ConfigError):
    """An adapter was chosen whose packages are not installed."""

    code = "missing_extra"


class ModelNotConfigured(ConfigError):
    """A model is named but nothing says where it is served."""

    code = "model_not_configured"


class DatabaseMismatch(ConfigError):
    """The broker belongs to another database than this process uses."""

    code = "database_mismatch"


class DatabaseTooNew(ConfigError):
    """The data folder was written by a newer version."""

    code = "database_too_new"


class UnsafeSqlite(ConfigError):
    """A second process would write through a SQLite that can corrupt its file."""

    code = "unsafe_sqlite"


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

    def __init__(self, message: str, *, retryable: bool = True, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.retryable = retryable


class LeaseLost(RagqueueError):
    """The run is no longer the job's current one; it must stop and write nothing."""

    code = "lease_lost"

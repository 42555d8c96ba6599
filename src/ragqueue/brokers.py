"""What a Redis must do for us, which one a connection leads to, and how its errors are told."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from redis import AuthenticationError, ConnectionPool, Redis, RedisError, ResponseError, exceptions

from ragqueue.errors import ConfigError, RagqueueError, Unavailable, without_password

T = TypeVar("T")

Command = tuple[str | bytes | int | float, ...]
# Their answers make the notes; an account that may not ask is served all the same.
QUESTIONS: tuple[Command, ...] = (("INFO", "server"), ("INFO", "persistence"), ("INFO", "memory"))
_LOCAL = ("localhost", "127.0.0.1", "::1")
_CLUSTER = "it is a Redis Cluster: RQ needs one Redis that holds all keys"
_REPLICA = "it is a replica: name the server that takes writes"
# What to do about a refusal: by the class of its error, or by the beginning of its text.
_HINTS = {
    exceptions.NoPermissionError: (
        "give this user what is missing: "
        "on the keys rq:* and ragqueue:*, the channels rq:pubsub:*, all commands"
    ),
    exceptions.ReadOnlyError: _REPLICA,
    exceptions.OutOfMemoryError: "raise its maxmemory, or erase what else it holds",
    exceptions.AuthenticationError: (
        "put its user and password into the URL, redis://user:password@host:6379/0"
    ),
    exceptions.MasterDownError: _REPLICA,
    exceptions.AskError: _CLUSTER,
    exceptions.ClusterError: _CLUSTER,
    exceptions.ClusterCrossSlotError: _CLUSTER,
}
_BEGINNINGS = {
    "MISCONF": "it cannot write to its disk, and therefore takes no writes: its log says why",
    "NOREPLICAS": (
        "too few of its replicas answer, and therefore it takes no writes (min-replicas-to-write)"
    ),
    "SELECT is not allowed": _CLUSTER,
    "DB index": "the number at the end of the URL is that of a database it does not have",
}


def usable(url: str) -> str:
    """Return a URL that names one Redis beyond doubt.

    Raises ValueError, whose text may hold what is secret.
    """
    if re.search(r"[\s\x00-\x1f\x7f]", url) or re.search("%(?![0-9A-Fa-f]{2})", url):
        raise ValueError("a space, a control character or a % that is not %25")
    if "#" in url or not _has_plain_path(url):
        raise ValueError(
            "not a path, or not the number of a database, for which the client would take 0"
        )
    try:
        # It does not connect: it only learns its options.
        connection = ConnectionPool.from_url(url).make_connection()
    except (TypeError, RedisError) as error:
        raise ValueError("an option that the client does not know") from error
    if connection.encoder.decode_responses:
        raise ValueError("answers are bytes here")
    return url


def _has_plain_path(url: str) -> bool:
    """Tell whether the path of a URL is that of a socket, the number of a database, or empty."""
    path = re.sub(r"^\w+://[^/?]*|[?#].*$", "", url)
    if url.startswith("unix:"):
        return re.fullmatch(r"/.+", path) is not None
    return re.fullmatch(r"/?|/\d+/?", path) is not None


def judge(safe_url: str, commands: Sequence[Command], answers: Sequence[Any]) -> Mapping[str, Any]:
    """Return what QUESTIONS, the first of the commands, brought to light.

    `safe_url`: as a message may show it. Raises ConfigError, Unavailable for a command that failed.
    """
    facts: dict[str, Any] = {}
    for answer in answers[: len(QUESTIONS)]:
        if isinstance(answer, Mapping):
            facts.update(answer)
    version = facts.get("redis_version")
    needed = commands[len(QUESTIONS) :]
    for command, answer in zip(needed, answers[len(QUESTIONS) :], strict=True):
        if isinstance(answer, RedisError):
            raise failure(safe_url, answer, command, version) from answer
    return facts


def notes(safe_url: str, facts: Mapping[str, Any]) -> list[str]:
    """Return what an operator should know of a Redis that works."""
    if "aof_enabled" not in facts or "maxmemory_policy" not in facts:
        return [
            f"{safe_url} does not say (INFO) whether it keeps what it holds over a restart, "
            "and evicts nothing"
        ]
    lines = []
    if not facts["aof_enabled"]:
        lines.append(
            f"{safe_url} has its append-only file off: what it loses with a restart is healed, "
            "but questions wait longer and running streams begin anew "
            "(redis-server --appendonly yes)"
        )
    policy = facts["maxmemory_policy"]
    if policy != "noeviction":
        lines.append(
            f"{safe_url} may drop rings and logs when its memory is full: "
            f"CONFIG SET maxmemory-policy noeviction (now {policy})"
        )
    return lines


def failure(
    safe_url: str, error: Exception, command: Command = ("",), version: object = None
) -> RagqueueError:
    """Return a ConfigError for a Redis that answers but does not do its work, else Unavailable."""
    text = reason(error)
    unknown = re.match(r"unknown (?:sub)?command\W+(\w+)", text, re.IGNORECASE)
    if unknown:
        running = f" ({version})" if version else ""
        return ConfigError(
            f"Redis 6.2 or newer is needed: {unknown[1].upper()} is unknown to {safe_url}{running}"
        )
    refuses = isinstance(error, ResponseError | AuthenticationError)
    # A script that runs too long and a file that is being loaded come to an end by themselves.
    if not refuses or text.startswith("BUSY "):
        return Unavailable(f"{safe_url} failed: {text}")
    refused = command[0] or "us"
    return ConfigError(f"{safe_url} refuses {refused!s}: {text}{_hint(error, text)}")


def _hint(error: Exception, text: str) -> str:
    """Return what to do about a refusal, as the end of its message; nothing where none is known."""
    for kind, hint in _HINTS.items():
        if isinstance(error, kind):
            return f": {hint}"
    for beginning, hint in _BEGINNINGS.items():
        if text.startswith(beginning):
            return f": {hint}"
    return ""


def reason(error: Exception) -> str:
    """Return the first line of an error, at most 200 characters.

    It is without the arguments of the command, which may be a password.
    """
    code = getattr(error, "status_code", None)
    if code == "NOAUTH":
        # Its own words explain a command of the client.
        return "NOAUTH a password is needed"
    pipelined = r"^Command # \d+ \(.*?\) of pipeline caused error: "
    text = re.sub(pipelined, "", str(error), flags=re.DOTALL)
    line = re.split(r",? with args|\n", text)[0].strip(" .")
    if not line:
        line = type(error).__name__
    if code not in (None, "ERR"):
        line = f"{code} {line}"
    return line[:200]


def address(options: Mapping[str, Any]) -> str:
    """Return where a connection leads, from its options: without its user and password."""
    number = options.get("db") or 0
    path = options.get("path")
    if path:
        return f"unix://{path}?db={number}"
    host = options.get("host") or "localhost"
    if host in _LOCAL:
        host = "localhost"
    port = options.get("port") or 6379
    return f"redis://{host}:{port}/{number}"


def check_same_redis(ours: Redis, theirs: Redis, safe_url: str) -> None:
    """Make sure that two connections lead to the same database of the same Redis.

    Its address tells, or its own word. Raises ConfigError.
    """
    our_options = ours.connection_pool.connection_kwargs
    their_options = theirs.connection_pool.connection_kwargs
    if address(our_options) == address(their_options):
        return
    same_number = (our_options.get("db") or 0) == (their_options.get("db") or 0)
    if same_number and _is_same_server(ours, theirs):
        return
    raise ConfigError(
        f"RQ's launcher uses {address(their_options)}, but REDIS_URL is {safe_url}: "
        "start it with `--url` and the URL that stands in REDIS_URL (or set RQ_REDIS_URL)"
    )


def _is_same_server(ours: Redis, theirs: Redis) -> bool:
    """Tell whether two connections lead to the same run of a server, by its own word."""
    try:
        our_run = ours.info("server")["run_id"]
        their_run = theirs.info("server")["run_id"]
    except (RedisError, OSError, KeyError):  # INFO may be forbidden
        return False
    return bool(our_run == their_run)


def opened(build: Callable[[str], T], url: str) -> T:
    """Return what is built of a URL of Redis. Raises ConfigError for one that cannot be used."""
    try:
        return build(url)
    except ValueError:
        pass
    # Outside of the handler: what the client says quotes the URL, and no traceback shall show it.
    raise ConfigError(
        "REDIS_URL (or RAGQUEUE_QUEUE, RAGQUEUE_EVENTS) is "
        f"{without_password(url)!r}: it should look like redis://user:password@host:6379/0, "
        "with every sign of a password that is no letter or digit as %40"
    )

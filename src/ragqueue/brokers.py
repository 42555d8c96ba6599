"""What a Redis must be able to do for us, which one a connection leads to, and how an error of it is said."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from redis import AuthenticationError, ConnectionPool, RedisError, ResponseError
from redis import exceptions as known

from ragqueue.errors import ConfigError, RagqueueError, Unavailable, without_password

T = TypeVar("T")

Command = tuple[str | bytes | int | float, ...]
# Their answers make the notes; an account that may not ask is served all the same.
QUESTIONS: tuple[Command, ...] = (("INFO", "server"), ("INFO", "persistence"), ("INFO", "memory"))
_LOCAL = ("localhost", "127.0.0.1", "::1", "")
_CLUSTER = "it is a Redis Cluster: RQ needs one Redis that holds all keys"
_HINTS = {
    known.NoPermissionError: "give this user what is missing: on the keys rq:* and ragqueue:*, the channels rq:pubsub:*, all commands",
    known.ReadOnlyError: "it is a replica: name the server that takes writes",
    known.OutOfMemoryError: "raise its maxmemory, or erase what else it holds",
    known.AuthenticationError: "put its user and password into the URL, redis://user:password@host:6379/0",
    known.MasterDownError: "it is a replica: name the server that takes writes",
    **dict.fromkeys((known.AskError, known.ClusterError, known.ClusterCrossSlotError), _CLUSTER),
}
_BEGINNINGS = {
    "MISCONF": "it cannot write to its disk, and therefore takes no writes: its log says why",
    "NOREPLICAS": "too few of its replicas answer, and therefore it takes no writes (min-replicas-to-write)",
    "SELECT is not allowed": _CLUSTER,
    "DB index": "the number at the end of the URL is that of a database it does not have",
}


def usable(url: str) -> str:
    """Return a URL that names one Redis beyond doubt. Raises ValueError, whose text may hold what is secret."""
    if re.search(r"[\s\x00-\x1f\x7f]", url) or re.search("%(?![0-9A-Fa-f]{2})", url):
        raise ValueError("a space, a control character or a % that is not %25")
    path = re.sub(r"^\w+://[^/?]*|[?#].*$", "", url)
    if "#" in url or not re.fullmatch(r"/.+" if url.startswith("unix:") else r"/?|/\d+/?", path):
        raise ValueError(
            "not a path, or not the number of a database, for which the client would take 0"
        )
    try:
        connection = ConnectionPool.from_url(url).make_connection()  # it only learns its options
    except (TypeError, RedisError) as error:
        raise ValueError("an option that the client does not know") from error
    if connection.encoder.decode_responses:
        raise ValueError("answers are bytes here")
    return url


def judge(shown: str, commands: Sequence[Command], answers: Sequence[Any]) -> Mapping[str, Any]:
    """Return what QUESTIONS, the first of the commands, brought to light. Raises ConfigError, Unavailable for a command that failed."""
    told: dict[str, Any] = {}
    for answer in answers[: len(QUESTIONS)]:
        told |= answer if isinstance(answer, Mapping) else {}
    for command, answer in list(zip(commands, answers, strict=True))[len(QUESTIONS) :]:
        if isinstance(answer, RedisError):
            raise failure(shown, answer, command, told.get("redis_version")) from answer
    return told


def notes(shown: str, told: Mapping[str, Any]) -> list[str]:
    """Return what an operator should know of a Redis that works."""
    if "aof_enabled" not in told or "maxmemory_policy" not in told:
        return [
            f"{shown} does not say (INFO) whether it keeps what it holds over a restart, and evicts nothing"
        ]
    found = []
    if not told["aof_enabled"]:
        lost = "what it loses with a restart is healed, but questions wait longer and running streams begin anew"
        found.append(
            f"{shown} has its append-only file off: {lost} (redis-server --appendonly yes)"
        )
    if (policy := told["maxmemory_policy"]) != "noeviction":
        found.append(
            f"{shown} may drop rings and logs when its memory is full: CONFIG SET maxmemory-policy noeviction (now {policy})"
        )
    return found


def failure(
    shown: str, error: Exception, command: Command = ("",), version: object = None
) -> RagqueueError:
    """Return a ConfigError for a Redis that answers but does not do its work, or else Unavailable."""
    said = reason(error)
    if unknown := re.match(r"unknown (?:sub)?command\W+(\w+)", said, re.IGNORECASE):
        run = f" ({version})" if version else ""
        return ConfigError(
            f"Redis 6.2 or newer is needed: {unknown[1].upper()} is unknown to {shown}{run}"
        )
    # A script that runs too long and a file that is being loaded come to an end by themselves.
    if not isinstance(error, ResponseError | AuthenticationError) or said.startswith("BUSY "):
        return Unavailable(f"{shown} failed: {said}")
    hints = [hint for kind, hint in _HINTS.items() if isinstance(error, kind)]
    hints += [hint for beginning, hint in _BEGINNINGS.items() if said.startswith(beginning)]
    asked = f" {command[0]!s}" if command[0] else ""
    return ConfigError(
        f"{shown} refuses{asked or ' us'}: {said}" + (f": {hints[0]}" if hints else "")
    )


def reason(error: Exception) -> str:
    """Return the first line of an error, without the arguments of the command, which may be a password."""
    said = re.sub(
        r"^Command # \d+ \(.*?\) of pipeline caused error: ", "", str(error), flags=re.DOTALL
    )
    code = getattr(error, "status_code", None)
    if code == "NOAUTH":  # its own words explain a command of the client
        return "NOAUTH a password is needed"
    said = re.split(r",? with args|\n", said)[0].strip(" .") or type(error).__name__
    return (said if code in (None, "ERR") else f"{code} {said}")[:200]


def address(options: Mapping[str, Any]) -> str:
    """Return where a connection leads, from its options: without its user and password."""
    number = options.get("db") or 0
    if path := options.get("path"):
        return f"unix://{path}?db={number}"
    host = options.get("host") or "localhost"
    return (
        f"redis://{'localhost' if host in _LOCAL else host}:{options.get('port') or 6379}/{number}"
    )


def refuse_other(ours: Any, theirs: Any, shown: str) -> None:
    """Make sure that two connections lead to the same database of the same Redis, by its own word or its address. Raises ConfigError."""
    mine, other = (client.connection_pool.connection_kwargs for client in (ours, theirs))
    if address(mine) == address(other):
        return
    if (mine.get("db") or 0) == (other.get("db") or 0):
        with suppress(RedisError, OSError, KeyError):  # INFO may be forbidden
            if ours.info("server")["run_id"] == theirs.info("server")["run_id"]:
                return
    mend = "start it with `--url` and the URL that stands in REDIS_URL (or set RQ_REDIS_URL)"
    raise ConfigError(f"RQ's launcher uses {address(other)}, but REDIS_URL is {shown}: {mend}")


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

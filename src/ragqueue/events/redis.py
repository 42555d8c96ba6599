"""The event log in Redis Streams: one stream a job, whose entry ids are `attempt-n`."""

import asyncio
import logging
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import json, msgpack
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ragqueue import brokers
from ragqueue.adapters import Given
from ragqueue.errors import Unavailable, without_password
from ragqueue.events.base import DAMAGED, EventLog, entry
from ragqueue.types import ATTEMPT_SHIFT, LAST_N, Append, Event, seq_of

KEEP = 86_400  # seconds after its last append that a log is kept, if nobody drops it
PATIENCE = 5.0  # seconds that a call may take, beyond the `wait` of a read

# KEYS: the logs. ARGV: seconds to keep them, then the appends as msgpack, one for each log: the
# end that its writer knows ("-": any lower one), then id, type, data, at of each event.
# One call for many logs: a call costs ten times as much as an event.
_APPEND = """
local ends = {}
for i, append in ipairs(cmsgpack.unpack(ARGV[2])) do
  local log, after, first = KEYS[i], append[1], append[2]
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
  local found = last[1] and last[1][1] or '0-0'
  local granted = after == found
  if after == '-' then
    granted = granted or not redis.call('XRANGE', log, first or '-', '+', 'COUNT', 1)[1]
  end
  if granted and first then
    for n = 2, #append, 4 do
      found = redis.call('XADD', log, append[n],
        'type', append[n + 1], 'data', append[n + 2], 'at', append[n + 3])
    end
    redis.call('EXPIRE', log, ARGV[1])
  end
  ends[i] = found
end
return ends
"""
_LOG = "ragqueue:log:"
_ANY = "-"  # any end below the first event
AT_ONCE = 1000  # logs that are erased in one round trip
EVENTS_AT_ONCE = 500  # in one call: they take Redis 2 ms
_BACKGROUND = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")
_TRIED = _LOG + "ragqueue-check"  # the name of no job
# Everything that is used, on a log that is gone at the end.
_CHECK: tuple[brokers.Command, ...] = (
    *brokers.QUESTIONS,
    ("UNLINK", _TRIED),
    ("XADD", _TRIED, "1-0", "type", ""),
    ("XRANGE", _TRIED, "-", "+", "COUNT", 1),
    ("XREVRANGE", _TRIED, "+", "-", "COUNT", 1),
    ("XREAD", "BLOCK", 1, "STREAMS", _TRIED, "0-0"),
    ("EXPIRE", _TRIED, 60),
    ("EVAL", _APPEND, 1, _TRIED, 60, msgpack.encode([[_ANY, "1-1", "", "", ""]])),
    ("DEL", _TRIED),
    ("MULTI",),
    ("EXEC",),
)
logger = logging.getLogger(__name__)


class RedisEventLog(EventLog):
    """Keeps events in Redis.

    A waiting read blocks in the server, and every append to its jobs wakes it.
    """

    def __init__(self, url: str) -> None:
        self._shown = without_password(url)
        # Tries twice, for an old connection may be dead. One limit of ours a call, none a response:
        # that would cost more than to read it.
        self._redis = Redis.from_url(
            brokers.usable(url), retry=Retry(NoBackoff(), 1), socket_timeout=None
        )
        # As the server sent it: RESP2 answers with pairs of stream and entries, RESP3 with a map.
        self._redis.set_response_callback("XREAD", lambda answer, **_: dict(answer or {}))
        self._purging = asyncio.Lock()  # Redis writes one file at a time

    async def append(self, appends: Sequence[Append]) -> list[int]:
        pipeline = self._redis.pipeline(transaction=False)
        for together in _groups(appends):
            keys = [_LOG + append.job_id for append in together]
            wishes = msgpack.encode([_wish(append) for append in together])
            pipeline.eval(_APPEND, len(keys), *keys, KEEP, wishes)
        answers = await self._call(pipeline.execute())
        return [_seq(end) for ends in answers for end in ends]

    async def read(self, cursors: Mapping[str, int], wait: float = 0) -> dict[str, list[Event]]:
        keys = [(_LOG + job_id).encode() for job_id in cursors]
        command: list[Any] = ["XREAD"]
        if wait > 0:
            command += ["BLOCK", max(1, int(wait * 1000))]
        command += ["STREAMS", *keys, *map(_id, cursors.values())]
        reading = self._redis.execute_command(*command)
        streams: dict[bytes, list[Any]] = await self._call(reading, wait + PATIENCE)
        return {
            job_id: [_event(entry_id, fields) for entry_id, fields in streams[key]]
            for job_id, key in zip(cursors, keys, strict=True)
            if key in streams
        }

    async def drop(self, job_ids: Sequence[str]) -> None:
        for start in range(0, len(job_ids), AT_ONCE):
            keys = [_LOG + job_id for job_id in job_ids[start : start + AT_ONCE]]
            await self._call(self._redis.unlink(*keys))

    async def seal(self, fences: Sequence[Append]) -> None:
        for start in range(0, len(fences), AT_ONCE):
            pipeline = self._redis.pipeline(transaction=True)
            for fence in fences[start : start + AT_ONCE]:
                key = _LOG + fence.job_id
                first = fence.events[0]
                pipeline.delete(key)
                pipeline.xadd(key, _fields(first), _id(first.seq))
                pipeline.expire(key, KEEP)
            await self._call(pipeline.execute())

    async def purge(self) -> dict[str, int]:
        """Have Redis write its append-only file and its snapshot anew, where it keeps them.

        What it does not let us do is counted as left.
        https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/
        """
        counts = {"log_files": 0}
        async with self._purging:
            for command, outcome in await self._kept_files():
                try:
                    await self._write_anew(command, outcome)
                    counts["log_files"] += 1
                except (NoPermissionError, ResponseError) as error:
                    logger.error("log.not_purged: %s refuses %s: %s", self._shown, command, error)
                    counts["log_files_left"] = counts.get("log_files_left", 0) + 1
        return counts

    async def _kept_files(self) -> list[tuple[str, str]]:
        """Return for each file that Redis keeps how it is written anew, and what tells of that."""
        kept = []
        if (await self._call(self._redis.info("persistence"))).get("aof_enabled"):
            kept.append(("BGREWRITEAOF", "aof_last_bgrewrite_status"))
        try:
            snapshots = (await self._ask(self._redis.config_get("save"))).get("save")
        except (NoPermissionError, ResponseError):  # a managed Redis does not tell
            snapshots = "unknown"
        if snapshots:
            kept.append(("BGSAVE", "rdb_last_bgsave_status"))
        return kept

    async def _write_anew(self, command: str, outcome: str) -> None:
        """Have Redis write a file anew, from what it holds now.

        Raises Unavailable, ResponseError when it refuses.
        """
        await self._idle()  # what is being written began before the last drop
        try:
            await self._ask(self._redis.execute_command(command))
        except ResponseError as error:
            if "in progress" not in str(error):
                raise
            raise Unavailable(f"{self._shown} is busy with its files: {error}") from error
        persistence = await self._idle()
        if persistence.get(outcome) != "ok":
            raise Unavailable(f"{self._shown} could not do {command}: its own log says why")

    async def _idle(self) -> Mapping[str, Any]:
        """Wait until Redis writes no file in the background; return what it tells of its files."""
        while True:
            persistence: dict[str, Any] = await self._call(self._redis.info("persistence"))
            if not any(persistence.get(name) for name in _BACKGROUND):
                return persistence
            await asyncio.sleep(0.05)

    async def check(self) -> Sequence[str]:
        pipeline = self._redis.pipeline(transaction=False)
        for command in _CHECK:
            pipeline.execute_command(*command)
        try:
            async with asyncio.timeout(PATIENCE):
                answers = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            raise brokers.failure(self._shown, error) from error
        return brokers.notes(self._shown, brokers.judge(self._shown, _CHECK, answers))

    async def close(self) -> None:
        await self._redis.aclose()

    async def _call(self, awaitable: Awaitable[Any], patience: float = PATIENCE) -> Any:
        try:
            return await self._ask(awaitable, patience)
        except RedisError as error:
            raise Unavailable(
                f"the event log {self._shown} failed: {brokers.reason(error)}"
            ) from error

    async def _ask(self, awaitable: Awaitable[Any], patience: float = PATIENCE) -> Any:
        """Return what Redis answers.

        Raises Unavailable when it is away, RedisError when it refuses.
        """
        try:
            async with asyncio.timeout(patience):
                return await awaitable
        except (ConnectionError, RedisConnectionError, RedisTimeoutError, OSError) as error:
            raise Unavailable(
                f"the event log {self._shown} failed: {brokers.reason(error)}"
            ) from error


def _fields(event: Event) -> dict[Any, Any]:
    return {"type": event.type, "data": json.encode(event.data), "at": event.at}


def _event(entry_id: bytes, fields: Sequence[bytes]) -> Event:
    """Return an entry as an event; whatever stands in Redis besides becomes one of DAMAGED."""
    values = dict(zip(fields[::2], fields[1::2], strict=False))
    type_ = values.get(b"type", b"").decode(errors="replace") or DAMAGED
    at = values.get(b"at", b"").decode(errors="replace")
    return entry(_seq(entry_id), type_, values.get(b"data", b""), at)


def _groups(appends: Sequence[Append]) -> Iterator[Sequence[Append]]:
    """Yield the appends in groups of about EVENTS_AT_ONCE: Redis does nothing else meanwhile."""
    group: list[Append] = []
    count = 0
    for append in appends:
        group.append(append)
        count += len(append.events)
        if count >= EVENTS_AT_ONCE:
            yield group
            group = []
            count = 0
    if group:
        yield group


def _wish(append: Append) -> list[str]:
    """Return an append as the script takes it.

    All are texts: Redis' msgpack knows no bytes, and its floats lose digits.
    """
    values = [_ANY if append.after == -1 else _id(append.after)]
    for event in append.events:
        values += (_id(event.seq), event.type, json.encode(event.data).decode(), repr(event.at))
    return values


def _id(seq: int) -> str:
    return f"{seq >> ATTEMPT_SHIFT}-{seq & LAST_N}"


def _seq(entry_id: bytes) -> int:
    return seq_of(*map(int, entry_id.split(b"-")))


def open(given: Given) -> RedisEventLog:
    """Return the log on the Redis of a URL. Raises ConfigError."""
    return brokers.opened(RedisEventLog, given.url)

"""The event log in Redis Streams: one stream a job, whose entry ids are `attempt-n`."""

import asyncio
import uuid
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from ragqueue.errors import Unavailable
from ragqueue.events.base import EventLog
from ragqueue.types import ATTEMPT_SHIFT, LAST_N, Append, Event, seq_of

KEEP = 86_400  # seconds after its last append that a log is kept, if nobody drops it
PAGE = 1000  # entries of one stream in one answer
PATIENCE = 5.0  # seconds that a call may take, beyond the `wait` of a read
WAKE_KEPT = 60  # seconds

# KEYS: the log. ARGV: the end that the writer knows ("-": any lower one), seconds to keep, then id, type, data, at of each event.
_APPEND = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local found = last[1] and last[1][1] or '0-0'
local granted = ARGV[1] == found
if ARGV[1] == '-' and ARGV[3] then
  local attempt, n = string.match(found, '(%d+)-(%d+)')
  local first_attempt, first_n = string.match(ARGV[3], '(%d+)-(%d+)')
  attempt, first_attempt = tonumber(attempt), tonumber(first_attempt)
  granted = attempt < first_attempt or (attempt == first_attempt and tonumber(n) < tonumber(first_n))
end
if granted and ARGV[3] then
  for i = 3, #ARGV, 4 do
    found = redis.call('XADD', KEYS[1], ARGV[i], 'type', ARGV[i + 1], 'data', ARGV[i + 2], 'at', ARGV[i + 3])
  end
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return found
"""
_T = TypeVar("_T")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class RedisEventLog(EventLog):
    """Keeps events in Redis; a waiting read blocks in the server, and every append to its jobs wakes it."""

    def __init__(self, url: str) -> None:
        url = url.removeprefix("rq+")
        parts = urlsplit(url)
        self._shown = f"{parts.scheme}://{parts.hostname or ''}:{parts.port or 6379}{parts.path}"  # no password
        retry = Retry(NoBackoff(), 1)  # once, for an old connection may be dead
        # One limit of ours a call, no limit a response: of many responses each would cost more than to read it.
        self._redis, self._waiting = (Redis.from_url(url, retry=retry, socket_timeout=None) for _ in range(2))
        for client in (self._redis, self._waiting):
            client.set_response_callback("XREAD", _streams)
        self._sha = ""
        self._wake_key = f"ragqueue:wake:{uuid.uuid4().hex}"
        self._woken = b"0-0"  # the last wake that a read saw
        self._readers = 0

    async def append(self, appends: Sequence[Append]) -> list[int]:
        return await self._call(self._append(appends))

    async def read(self, cursors: Mapping[str, int], wait: float = 0) -> dict[str, list[Event]]:
        found: dict[str, list[Event]] = {}
        self._readers += wait > 0
        try:
            answer = await self._call(self._read(cursors, wait), wait + PATIENCE)
            while answer:  # a page that is full may not be the last one
                full = {}
                for job_id, events in answer.items():
                    found.setdefault(job_id, []).extend(events)
                    if len(events) == PAGE:
                        full[job_id] = events[-1].seq
                answer = await self._call(self._read(full, 0)) if full else {}
        finally:
            self._readers -= wait > 0
        return found

    async def wake(self) -> None:
        if self._readers:
            await self._call(self._wake())

    async def drop(self, job_ids: Sequence[str]) -> None:
        if job_ids:
            await self._call(self._redis.unlink(*map(_key, job_ids)))

    async def close(self) -> None:
        await self._redis.aclose()
        await self._waiting.aclose()

    async def _call(self, awaitable: Awaitable[_T], patience: float = PATIENCE) -> _T:
        try:
            async with asyncio.timeout(patience):
                return await awaitable
        except (RedisError, OSError) as error:
            raise Unavailable(f"the event log {self._shown} failed: {error or type(error).__name__}") from error

    async def _append(self, appends: Sequence[Append]) -> list[int]:
        for _ in range(2):
            if not self._sha:
                self._sha = await self._redis.script_load(_APPEND)
            try:
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for append in appends:
                        after = "-" if append.after == -1 else _id(append.after)
                        pipeline.evalsha(self._sha, 1, _key(append.job_id), after, KEEP, *_fields(append.events))
                    return [_seq(end) for end in await pipeline.execute()]
            except NoScriptError:  # Redis was restarted; what was written before the refusal is not written twice
                self._sha = ""
        raise Unavailable(f"the event log {self._shown} forgets its script again and again")

    async def _read(self, cursors: Mapping[str, int], wait: float) -> dict[str, list[Event]]:
        keys = [_key(job_id).encode() for job_id in cursors]
        ids: list[str | bytes] = [_id(cursor) for cursor in cursors.values()]
        if wait <= 0:
            streams = await self._redis.execute_command("XREAD", "COUNT", PAGE, "STREAMS", *keys, *ids) if keys else {}
        else:
            block = ("XREAD", "COUNT", PAGE, "BLOCK", max(1, int(wait * 1000)), "STREAMS")
            streams = await self._waiting.execute_command(*block, *keys, self._wake_key, *ids, self._woken)
        wakes = streams.pop(self._wake_key.encode(), None)
        if wakes:
            self._woken = wakes[-1][0]
        return {job_id: _events(streams[key]) for job_id, key in zip(cursors, keys, strict=True) if key in streams}

    async def _wake(self) -> None:
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.xadd(self._wake_key, {"w": ""}, maxlen=1, approximate=False)
            pipeline.expire(self._wake_key, WAKE_KEPT)
            await pipeline.execute()


def _key(job_id: str) -> str:
    return f"ragqueue:log:{job_id}"


def _id(seq: int) -> str:
    return f"{seq >> ATTEMPT_SHIFT}-{seq & LAST_N}"


def _seq(entry_id: bytes) -> int:
    attempt, _, n = entry_id.partition(b"-")
    return seq_of(int(attempt), int(n))


def _fields(events: Sequence[Event]) -> Iterable[str | bytes | float]:
    for event in events:
        yield from (_id(event.seq), event.type, _encode(dict(event.data)), event.at)


def _streams(answer: Any, **options: Any) -> dict[bytes, list[Any]]:
    """Return entries by stream, as the server sent them: RESP2 answers with pairs, RESP3 with a map."""
    return dict(answer or {})


def _events(entries: Iterable[Any]) -> list[Event]:
    return [Event(_seq(entry_id), type_.decode(), _decode(data), float(at)) for entry_id, (_, type_, _, data, _, at) in entries]

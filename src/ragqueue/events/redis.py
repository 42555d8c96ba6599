"""The event log in Redis Streams: one stream a job, whose entry ids are `attempt-n`."""

import asyncio
import hashlib
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from msgspec import json
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ragqueue.errors import Unavailable, without_password
from ragqueue.events.base import EventLog
from ragqueue.types import ATTEMPT_SHIFT, LAST_N, Append, Event, seq_of

KEEP = 86_400  # seconds after its last append that a log is kept, if nobody drops it
PATIENCE = 5.0  # seconds that a call may take, beyond the `wait` of a read

# KEYS: the log. ARGV: the end that the writer knows ("-": any lower one), seconds to keep, then id, type, data, at of each event.
_APPEND = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local found = last[1] and last[1][1] or '0-0'
local granted = ARGV[1] == found or ARGV[1] == '-' and not redis.call('XRANGE', KEYS[1], ARGV[3] or '-', '+', 'COUNT', 1)[1]
if granted and ARGV[3] then
  for i = 3, #ARGV, 4 do
    found = redis.call('XADD', KEYS[1], ARGV[i], 'type', ARGV[i + 1], 'data', ARGV[i + 2], 'at', ARGV[i + 3])
  end
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return found
"""
_LOG = "ragqueue:log:"


class RedisEventLog(EventLog):
    """Keeps events in Redis; a waiting read blocks in the server, and every append to its jobs wakes it."""

    def __init__(self, url: str) -> None:
        self._shown = without_password(url)
        # Tries twice, for an old connection may be dead. One limit of ours a call, none a response: that would cost more than to read it.
        self._redis = Redis.from_url(url, retry=Retry(NoBackoff(), 1), socket_timeout=None)
        # As the server sent it: RESP2 answers with pairs of stream and entries, RESP3 with a map.
        self._redis.set_response_callback("XREAD", lambda answer, **_: dict(answer or {}))
        self._sha = hashlib.sha1(_APPEND.encode()).hexdigest()

    async def append(self, appends: Sequence[Append]) -> list[int]:
        pipeline = self._redis.pipeline(transaction=False)
        call, script = pipeline.eval, _APPEND  # the first brings the script, for Redis may have been restarted; the others name it
        for append in appends:
            fields = [value for event in append.events for value in (_id(event.seq), event.type, json.encode(event.data), event.at)]
            call(script, 1, _LOG + append.job_id, "-" if append.after == -1 else _id(append.after), KEEP, *fields)
            call, script = pipeline.evalsha, self._sha
        return [_seq(end) for end in await self._call(pipeline.execute())]

    async def read(self, cursors: Mapping[str, int], wait: float = 0) -> dict[str, list[Event]]:
        keys = [(_LOG + job_id).encode() for job_id in cursors]
        block = ("BLOCK", max(1, int(wait * 1000))) if wait > 0 else ()
        reading = self._redis.execute_command("XREAD", *block, "STREAMS", *keys, *map(_id, cursors.values()))
        streams: dict[bytes, list[Any]] = await self._call(reading, wait + PATIENCE)
        return {
            job_id: [Event(_seq(entry), type_.decode(), json.decode(data), float(at)) for entry, (_, type_, _, data, _, at) in streams[key]]
            for job_id, key in zip(cursors, keys, strict=True)
            if key in streams
        }

    async def drop(self, job_ids: Sequence[str]) -> None:
        if job_ids:
            await self._call(self._redis.unlink(*(_LOG + job_id for job_id in job_ids)))

    async def close(self) -> None:
        await self._redis.aclose()

    async def _call(self, awaitable: Awaitable[Any], patience: float = PATIENCE) -> Any:
        try:
            async with asyncio.timeout(patience):
                return await awaitable
        except (RedisError, OSError) as error:
            raise Unavailable(f"the event log {self._shown} failed: {error or type(error).__name__}") from error


def _id(seq: int) -> str:
    return f"{seq >> ATTEMPT_SHIFT}-{seq & LAST_N}"


def _seq(entry_id: bytes) -> int:
    return seq_of(*map(int, entry_id.split(b"-")))

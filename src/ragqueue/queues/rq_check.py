"""What RQ's Redis is asked before we work with it, and what it tells of deliveries that failed."""

import time
import zlib
from base64 import b64decode
from collections.abc import Sequence
from typing import Any

from redis import Redis
from rq import registry, results

from ragqueue import brokers
from ragqueue.queues.ring_job import QUEUE_PREFIX
from ragqueue.types import LANES

DATABASE_KEY = "ragqueue:database"  # of the UUID of the database that the broker belongs to
LONGEST_TRACEBACK = 100_000  # bytes that are unpacked of one

# Keys of the kinds that RQ uses; they are gone at the end of the check.
_LIST = "rq:queue:ragqueue-check"
_PASSED = "rq:intermediate:ragqueue-check"
_HASH = "rq:job:ragqueue-check"
_SORTED = "rq:wip:ragqueue-check"
_SET = "rq:workers:ragqueue-check"
_STREAM = "rq:results:ragqueue-check"
_TEXT = "rq:clean_registries:ragqueue-check"
_KEYS = (_LIST, _PASSED, _HASH, _SORTED, _SET, _STREAM, _TEXT)
# All that ringing and working need; it waits for nothing.
CHECK: tuple[brokers.Command, ...] = (
    *brokers.QUESTIONS,
    ("MULTI",),
    ("EXEC",),
    ("GET", DATABASE_KEY),
    ("DEL", *_KEYS),
    ("RPUSH", _LIST, ""),
    ("LPUSH", _LIST, ""),
    ("LLEN", _LIST),
    ("LRANGE", _LIST, 0, 0),
    ("LMOVE", _LIST, _PASSED, "LEFT", "RIGHT"),
    ("BLMOVE", _PASSED, _LIST, "LEFT", "RIGHT", 0.001),
    ("LREM", _LIST, 1, ""),
    ("HSET", _HASH, "n", 1),
    ("HINCRBY", _HASH, "n", 1),
    ("HINCRBYFLOAT", _HASH, "n", 1),
    ("HGETALL", _HASH),
    ("EXPIRE", _HASH, 60),
    ("ZADD", _SORTED, 1, ""),
    ("ZRANGEBYSCORE", _SORTED, 0, 1),
    ("ZREMRANGEBYSCORE", _SORTED, 0, 0),
    ("ZREM", _SORTED, ""),
    ("SADD", _SET, ""),
    ("SMEMBERS", _SET),
    ("SREM", _SET, ""),
    ("EXISTS", _SET),
    ("SET", _TEXT, "", "EX", 60),
    ("XADD", _STREAM, "*", "n", 1),
    ("DEL", *_KEYS),
)


def failed_questions() -> list[brokers.Command]:
    """Return the commands whose answers tell which deliveries failed: two for each lane.

    RQ keeps each failed delivery until the time that is its score.
    """
    questions: list[brokers.Command] = []
    for lane in LANES:
        key = registry.FailedJobRegistry.key_template.format(QUEUE_PREFIX + lane)
        questions.append(("ZCOUNT", key, time.time(), "+inf"))
        questions.append(("ZREVRANGE", key, 0, 0))
    return questions


def failed_notes(answers: Sequence[Any], connection: Redis) -> list[str]:
    """Return what an operator should know of deliveries that failed.

    `answers`: those to `failed_questions`. Raises RedisError.
    """
    notes = []
    counts = answers[::2]
    newest = answers[1::2]
    for lane, count, job_ids in zip(LANES, counts, newest, strict=True):
        # An answer may be an error: an account need not be allowed to ask.
        if not isinstance(count, int) or not isinstance(job_ids, list):
            continue
        if not count or not job_ids:
            continue
        line = _last_line(connection, job_ids[0])
        notes.append(
            f"{count} deliveries of {QUEUE_PREFIX}{lane} failed in the last hour, "
            f"the last with {line[:200]!r}: nothing is lost, they ring again; "
            "look into the log of their worker, and start RQ's workers with our classes "
            "(docs/how-to/rq-on-redis.md)"
        )
    return notes


def _last_line(connection: Redis, job_id: bytes) -> str:
    """Return the last line of the traceback that a failed delivery left. Raises RedisError."""
    key = results.Result.get_key(job_id.decode(errors="replace"))
    entries = connection.xrevrange(key, count=1)
    try:
        packed = b64decode(entries[0][1][b"exc_string"])
        traceback = zlib.decompressobj().decompress(packed, LONGEST_TRACEBACK)
        return traceback.decode(errors="replace").strip().splitlines()[-1]
    except (ValueError, LookupError, zlib.error):  # what stands in Redis can be anything
        return "unknown"

"""What every RQ worker of ours takes, whatever its launcher was told: rings as RQ jobs in JSON, and what failed of them."""

import time
import zlib
from base64 import b64decode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis import Redis
from rq import job, registry, results, serializers, worker

from ragqueue import brokers
from ragqueue.errors import InvalidRequest
from ragqueue.types import LANES

HANDLER = "ragqueue.entrypoints.rq.handle"  # the only function that an RQ job of ours can name
QUEUE_PREFIX = "ragqueue-"
RETRIES = 3  # deliveries again after a handle that could not record its outcome
FAILED_FOR = 3600  # seconds that `rq info` shows a failed delivery
# What is read back of an RQ job: none of the other fields (callbacks, webhooks, dependents) can reach code or hosts.
_FIELDS = b"created_at data description enqueued_at failure_ttl origin result_ttl retries_left status timeout worker_name".split()
# What ringing and working need, on keys that are gone at the end; it waits for nothing.
_KEYS = [
    f"rq:{kind}:ragqueue-check"
    for kind in ("queue", "intermediate", "job", "wip", "workers", "results", "clean_registries")
]
_LIST, _PASSED, _HASH, _SORTED, _SET, _STREAM, _TEXT = _KEYS
CHECK: tuple[brokers.Command, ...] = (
    *brokers.QUESTIONS,
    ("MULTI",),
    ("EXEC",),
    ("GET", "ragqueue:database"),
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


class RingJob(job.Job):  # type: ignore[misc]
    """An RQ job that can be nothing but a ring: JSON only, one function, no callbacks, webhooks or dependents."""

    def __init__(
        self, id: str | None = None, connection: Redis | None = None, serializer: object = None
    ) -> None:
        super().__init__(id, connection)
        self.serializer = (
            serializers.JSONSerializer
        )  # whatever the launcher says; as an argument it costs RQ 0.1 ms to check

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        super().restore({field: raw_data[field] for field in _FIELDS if field in raw_data})
        self.retries_left: int = min(self.retries_left or 0, RETRIES)

    def _deserialize_data(self) -> None:
        super()._deserialize_data()
        named: object = self._func_name
        self._func_name: str = HANDLER  # who asks again is given nothing else to run
        if named != HANDLER:
            raise InvalidRequest(
                f"an RQ job named {named!r:.200} was refused: only {HANDLER} is run"
            )


class RingWorker(worker.BaseWorker):  # type: ignore[misc]
    """The base of our worker classes: RQ's launchers pass pickle and a job class that believes what stands in Redis."""

    def __init__(self, queues: Sequence[Any], name: str | None = None, **options: Any) -> None:
        names = [getattr(queue, "name", queue) for queue in queues]
        super().__init__(
            names,
            name,
            **{**options, "job_class": RingJob, "serializer": serializers.JSONSerializer},
        )


def questions() -> list[brokers.Command]:
    """Return the commands whose answers tell which deliveries failed; RQ keeps each until the time that is its score."""
    keys = [registry.FailedJobRegistry.key_template.format(QUEUE_PREFIX + lane) for lane in LANES]
    return [
        question
        for key in keys
        for question in (("ZCOUNT", key, time.time(), "+inf"), ("ZREVRANGE", key, 0, 0))
    ]


def failed_notes(answers: Sequence[Any], connection: Redis) -> list[str]:
    """Return what an operator should know of deliveries that failed. Raises RedisError."""
    found = []
    for lane, count, last in zip(LANES, answers[::2], answers[1::2], strict=True):
        if not isinstance(count, int) or not count or not isinstance(last, list) or not last:
            continue
        told, line = (
            connection.xrevrange(results.Result.get_key(last[0].decode(errors="replace")), count=1),
            "unknown",
        )
        with suppress(ValueError, LookupError, zlib.error):  # what stands in Redis can be anything
            text = zlib.decompressobj().decompress(b64decode(told[0][1][b"exc_string"]), 100_000)
            line = text.decode(errors="replace").strip().splitlines()[-1]
        said = f"{count} deliveries of {QUEUE_PREFIX}{lane} failed in the last hour, the last with {line[:200]!r}: nothing is lost, they ring again"
        found.append(
            f"{said}; look into the log of their worker, and start RQ's workers with our classes (docs/how-to/rq-on-redis.md)"
        )
    return found

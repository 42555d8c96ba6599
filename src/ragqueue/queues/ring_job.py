"""What every RQ worker of ours takes, whatever its launcher was told: rings as RQ jobs in JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from redis import Redis
from rq import job, serializers, worker

from ragqueue.errors import InvalidRequest

HANDLER = "ragqueue.entrypoints.rq.handle"  # the only function that an RQ job of ours can name
QUEUE_PREFIX = "ragqueue-"
RETRIES = 3  # deliveries again after a handle that could not record its outcome
FAILED_FOR = 3600  # seconds that `rq info` shows a failed delivery
# What is read back of an RQ job: none of the other fields (callbacks, webhooks, dependents) can
# reach code or hosts.
_FIELDS = (
    b"created_at",
    b"data",
    b"description",
    b"enqueued_at",
    b"failure_ttl",
    b"origin",
    b"result_ttl",
    b"retries_left",
    b"status",
    b"timeout",
    b"worker_name",
)


class RingJob(job.Job):  # type: ignore[misc]
    """An RQ job that can be nothing but a ring.

    JSON only, one function, no callbacks, webhooks or dependents.
    """

    def __init__(
        self, id: str | None = None, connection: Redis | None = None, serializer: object = None
    ) -> None:
        super().__init__(id, connection)
        # Whatever the launcher says. As an argument it costs RQ 0.1 ms to check.
        self.serializer = serializers.JSONSerializer

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Take over what Redis holds of the job, as far as it can do no harm."""
        super().restore({field: raw_data[field] for field in _FIELDS if field in raw_data})
        self.retries_left: int = min(self.retries_left or 0, RETRIES)

    def _deserialize_data(self) -> None:
        """Read the function and its arguments. Raises InvalidRequest for another than HANDLER."""
        super()._deserialize_data()
        function: object = self._func_name
        # Who asks again is given nothing else to run.
        self._func_name: str = HANDLER
        if function != HANDLER:
            raise InvalidRequest(
                f"an RQ job named {function!r:.200} was refused: only {HANDLER} is run"
            )


class RingWorker(worker.BaseWorker):  # type: ignore[misc]
    """The base of our worker classes, which take RingJobs and JSON.

    RQ's launchers pass pickle and a job class that believes what stands in Redis.
    """

    def __init__(self, queues: Sequence[Any], name: str | None = None, **options: Any) -> None:
        names = [getattr(queue, "name", queue) for queue in queues]
        options["job_class"] = RingJob
        options["serializer"] = serializers.JSONSerializer
        super().__init__(names, name, **options)

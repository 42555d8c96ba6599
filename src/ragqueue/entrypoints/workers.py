"""Our worker classes for RQ's launchers.

They refuse in one line to work for another Redis than the API's.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import click
from redis import Redis, RedisError
from rq import worker
from rq.cli.helpers import CliConfig

from ragqueue import brokers
from ragqueue.entrypoints.rq import live
from ragqueue.errors import ConfigError, RagqueueError, without_password
from ragqueue.queues.ring_job import QUEUE_PREFIX, RingWorker
from ragqueue.queues.rq import RQQueue
from ragqueue.queues.rq_worker import ConcurrentWorker
from ragqueue.settings import check_model, load
from ragqueue.types import LANES

NAMES = ("AsyncWorker", "SimpleWorker", "Worker")
_QUEUES = [QUEUE_PREFIX + lane for lane in LANES]


@contextmanager
def _in_one_line() -> Iterator[None]:
    """End the process with status 2 and the error's text.

    A launcher would print where in the code it happened.
    """
    try:
        yield
    except RagqueueError as error:
        sys.stderr.write(f"ragqueue: {error.message} [{error.code}]\n")
        raise SystemExit(2) from error


def _check(connection: Redis) -> None:
    """Make sure that this connection leads to the Redis of our settings, and that it does its work.

    Raises ConfigError, Unavailable.
    """
    settings, _ = load()
    check_model(settings)
    if not settings.queue_url.startswith("rq"):
        raise ConfigError(
            f"the queue is {settings.queue_url!r}, so the API rings nobody in Redis: "
            "set REDIS_URL in .env"
        )
    queue = brokers.opened(RQQueue, settings.queue_url.removeprefix("rq+"))
    # Not a thread of the runner nor a connection of the queue lives on: what comes now may fork.
    with asyncio.Runner() as runner:
        try:
            queue.check_same_redis(connection)
            runner.run(queue.check())
        finally:
            runner.run(queue.close())


def look_before_start(name: str) -> None:
    """Check what RQ's command line was given; elsewhere do nothing.

    That comes before its own words about it, which show tracebacks and passwords.
    """
    context = click.get_current_context(silent=True)
    if context is None or context.command.name not in ("worker", "worker-pool"):
        return
    with _in_one_line():
        if name == "Worker" and not hasattr(os, "fork"):
            raise ConfigError(
                "Worker forks, which Windows cannot: "
                "use `rq worker -w ragqueue.entrypoints.rq.SimpleWorker` or `ragqueue worker`"
            )
        load()  # what is wrong with ours is said first
        _check(_launcher_connection(context.params))


def _launcher_connection(params: dict[str, Any]) -> Redis:
    """Return the connection that RQ's command line would make. Raises ConfigError."""
    # A stock class: looking up one of ours would lead here again.
    options = {**params, "worker_class": "rq.Worker"}
    try:
        return CliConfig(**options).connection
    except (ValueError, TypeError, RedisError):
        safe_url = without_password(params.get("url") or "a variable or the file of --config")
        raise ConfigError(
            f"RQ's launcher cannot use its URL, {safe_url}: it should look like redis://host:6379/0"
        ) from None


class _Checked(RingWorker):
    """Looks at queues, Redis and settings before it begins, whoever launches it."""

    def work(self, *args: Any, **options: Any) -> bool:
        """Check, then work as RQ's class does; an error of ours ends the process in one line."""
        with _in_one_line():
            names = self.queue_names()
            if not names or not set(names) <= set(_QUEUES):
                raise ConfigError(
                    f"this worker takes the queues {' and '.join(_QUEUES)}, not {', '.join(names)}"
                )
            _check(self.connection)
            return bool(super().work(*args, **options))


class SimpleWorker(_Checked, worker.SimpleWorker):  # type: ignore[misc]
    """RQ's SimpleWorker for our rings.

    One at a time, in its own process, and without fork() also on Windows.
    """


class Worker(_Checked, worker.Worker):  # type: ignore[misc]
    """RQ's Worker for our rings: one at a time, each in a child that it forks."""


class _Concurrent(ConcurrentWorker):
    """Works as RQ's launchers ask for it: with their options, signals and scheduler."""

    def work(self, burst: bool = False, *, with_scheduler: bool = False, **options: Any) -> bool:
        """Work until told to stop (burst: until the queue is empty), then drain.

        Raises ConfigError, Unavailable.
        """
        max_jobs = options.pop("max_jobs", None)
        max_idle_time = options.pop("max_idle_time", None)
        if len(self.queues) != 1 or max_jobs is not None or max_idle_time is not None:
            raise ConfigError(
                f"this worker takes exactly one queue, {' or '.join(_QUEUES)}, "
                "and neither --max-jobs nor --max-idle-time"
            )
        lane = self.queue_names()[0].removeprefix(QUEUE_PREFIX)
        options.pop("dequeue_strategy", None)  # one queue needs none
        self.bootstrap(**options)
        try:
            # The scheduler forks, so it comes before every thread of ours.
            if with_scheduler:
                self._start_scheduler(burst, **options)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: self._stopping.set())
            asyncio.run(live(lane, partial(self.consume, burst=burst)))
        finally:
            self.retire()
        return True


class AsyncWorker(_Checked, _Concurrent):
    """Our worker for `rq worker -w ragqueue.entrypoints.rq.AsyncWorker --with-scheduler ...`.

    It takes exactly one queue, `ragqueue-chat` or `ragqueue-background`.
    """

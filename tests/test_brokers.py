"""A Redis that cannot do its work is refused with a reason.

One that is merely away, or busy, is not.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from msgspec import structs

from campaigns.services import RedisServer
from ragqueue import adapters, brokers
from ragqueue.adapters import Given
from ragqueue.errors import ConfigError, Unavailable
from ragqueue.events.base import EventLog
from ragqueue.queues.base import JobQueue
from ragqueue.queues.ring_job import FAILED_FOR, HANDLER, RingJob
from ragqueue.types import Ring
from tests.needs import require_redis


@contextmanager
def configured(*config: str) -> Iterator[RedisServer]:
    require_redis()
    with RedisServer(*config) as server:
        yield server


async def checked(port: type[JobQueue] | type[EventLog], url: str) -> list[str]:
    """Check as `open_runtime` does, and close."""
    if port is EventLog:
        return await _ask(adapters.open_adapter(EventLog, adapters.EVENTS, Given(url)))
    return await _ask(adapters.open_adapter(JobQueue, adapters.QUEUES, Given(f"rq+{url}")))


async def _ask(part: JobQueue | EventLog) -> list[str]:
    try:
        return list(await part.check())
    finally:
        await part.close()


BOTH = pytest.mark.parametrize("port", [JobQueue, EventLog], ids=["queue", "log"])


@BOTH
@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_redis_that_keeps_what_it_is_given_has_no_note_and_nothing_stays_in_it(
    port: type[JobQueue] | type[EventLog], protocol: int
) -> None:
    require_redis()
    with RedisServer(appendonly=True) as server, redis.Redis.from_url(server.url) as client:
        assert await checked(port, f"{server.url}?protocol={protocol}") == []
        assert client.keys() == []


@BOTH
async def test_what_a_redis_may_lose_is_noted(
    port: type[JobQueue] | type[EventLog], redis_server: RedisServer
) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        found = await checked(port, redis_server.url)
        client.config_set("maxmemory-policy", "noeviction")

    assert ["append-only" in found[0], "allkeys-lru" in found[1], len(found)] == [True, True, 2]


@pytest.mark.parametrize(
    ("port", "command"),
    [
        (JobQueue, "BLMOVE"),
        (JobQueue, "LMOVE"),
        (JobQueue, "MULTI"),
        (EventLog, "XADD"),
        (EventLog, "EVAL"),
    ],
)
async def test_an_old_redis_is_refused_with_the_command_it_lacks(
    port: type[JobQueue] | type[EventLog], command: str
) -> None:
    says = rf"Redis 6\.2 or newer is needed: {command} is unknown to redis://"

    with (
        configured(f'rename-command {command} ""') as server,
        pytest.raises(ConfigError, match=says),
    ):
        await checked(port, server.url)


@BOTH
@pytest.mark.parametrize(
    ("config", "login", "says"),
    [
        ("replicaof 127.0.0.1 1", "", "replica"),
        ("min-replicas-to-write 1", "", "min-replicas-to-write"),
        ("maxmemory 1", "", "maxmemory"),
        ("user canary on >canary ~* &* +@read +@connection", "canary:canary@", "NOPERM"),
        ("user canary on >canary ~canary:* &* +@all", "canary:canary@", "NOPERM"),
        ("requirepass canary", "", "NOAUTH"),
        ("requirepass sesame", ":canary@", "WRONGPASS"),
        ("cluster-enabled yes", "", "Cluster"),
        ("databases 1", "", "DB index"),
    ],
)
async def test_a_redis_that_takes_no_work_is_refused_with_the_reason(
    port: type[JobQueue] | type[EventLog], config: str, login: str, says: str
) -> None:
    with configured(config) as server:
        number = "/7" if says == "DB index" else "/0"
        url = server.url.replace("://", f"://{login}").replace("/0", number)
        with pytest.raises(ConfigError, match=says) as caught:
            await checked(port, url)

    assert "canary" not in caught.value.message.replace("****", "")


async def test_a_log_whose_user_may_run_no_script_is_refused() -> None:
    with (
        configured("user canary on >canary ~* &* +@all -@scripting") as server,
        pytest.raises(ConfigError, match="EVAL"),
    ):
        await checked(EventLog, server.url.replace("://", "://canary:canary@"))


@BOTH
async def test_a_user_who_may_do_what_the_manual_says_is_served_and_info_is_not_needed(
    port: type[JobQueue] | type[EventLog],
) -> None:
    with configured("user canary on >canary ~rq:* ~ragqueue:* &rq:pubsub:* +@all -info") as server:
        [note] = await checked(port, server.url.replace("://", "://canary:canary@"))

    assert "INFO" in note


@BOTH
async def test_a_redis_that_is_away_is_unavailable(port: type[JobQueue] | type[EventLog]) -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await checked(port, "redis://:canary@127.0.0.1:1/0")


def test_a_redis_that_is_busy_comes_back_by_itself() -> None:
    busy = redis.ResponseError(
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."
    )
    loading = redis.BusyLoadingError("Redis is loading the dataset in memory")

    assert isinstance(brokers.failure("redis://here", busy), Unavailable)
    assert isinstance(brokers.failure("redis://here", loading), Unavailable)


def test_no_argument_of_a_command_is_in_the_reason_of_an_error() -> None:
    error = redis.ResponseError("unknown command 'AUTH', with args beginning with: 'canary'")

    assert brokers.reason(error) == "unknown command 'AUTH'"


@pytest.mark.parametrize("data", [b"not base64", b""])
async def test_failed_deliveries_are_noted_whatever_stands_in_redis(
    redis_server: RedisServer, data: bytes
) -> None:
    redis_server.flush()
    with redis.Redis.from_url(redis_server.url) as client:
        client.zadd("rq:failed:ragqueue-background", {b"\xff": 4e9})
        client.xadd("rq:results:\ufffd", {"exc_string": data})
        notes = await checked(JobQueue, redis_server.url)
        redis_server.flush()

    assert "1 deliveries of ragqueue-background failed" in notes[-1]


async def test_what_failed_last_is_noted_with_its_last_line(redis_server: RedisServer) -> None:
    redis_server.flush()
    with redis.Redis.from_url(redis_server.url) as client:
        from rq.results import Result

        failed = RingJob.create(
            HANDLER,
            list(structs.astuple(Ring(job_id="a", lane="chat", database="d", stamp=1.0))),
            connection=client,
        )
        traceback = "Traceback\n  of many lines\nValueError: the cause"
        Result.create_failure(failed, FAILED_FOR, traceback)
        failed.origin = "ragqueue-chat"
        failed.failed_job_registry.add(failed, FAILED_FOR)
        notes = await checked(JobQueue, redis_server.url)
        redis_server.flush()

    assert "'ValueError: the cause'" in notes[-1]


WRONG = [
    "localhost:6379",
    "http://canary@127.0.0.1/0",
    "redis:canary",
    "redis://127.0.0.1:canary/0",
    "redis://127.0.0.1:99999/0",
    "redis://127.0.0.1:6379/canary",
    "redis://127.0.0.1:6379/0?db=canary",
    "redis://127.0.0.1:6379/0?no_option=canary",
    "redis://127.0.0.1:6379/0?protocol=9",
    "redis://127.0.0.1:6379/0?decode_responses=1",
    "redis://:%canary%@127.0.0.1:6379/0",
    "redis://:can/ary@127.0.0.1:6379/0",
    "redis://:can#ary@127.0.0.1:6379/0",
    "redis://:canary@127.0.0.1:6379/0\n",
    "redis://[::1/0",
    "unix://",
]


@pytest.mark.parametrize("url", WRONG)
def test_a_url_that_the_client_would_misread_is_refused(url: str) -> None:
    says = r"REDIS_URL .* should look like redis://user:password@host:6379/0"

    with pytest.raises(ConfigError, match=says) as caught:
        adapters.open_adapter(JobQueue, adapters.QUEUES, Given(f"rq+{url}"))

    assert caught.value.__context__ is None  # no traceback shows what the client said


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://h",
        "redis://h:1/2/",
        "rediss://u:p%40@h:1/0?ssl_cert_reqs=none",
        "unix:///a/b?db=2",
    ],
)
def test_a_good_url_is_used_as_it_stands(url: str) -> None:
    assert brokers.usable(url) == url

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
import redis

from campaigns.services import RedisServer
from ragqueue.errors import Unavailable
from ragqueue.events.redis import RedisEventLog
from ragqueue.testing.contracts.engines import LIMIT, EventLogContract, event, everything, write
from ragqueue.types import ATTEMPT_SHIFT, LAST_N, Append
from tests.needs import require_redis


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
async def log(
    redis_server: RedisServer, request: pytest.FixtureRequest
) -> AsyncIterator[RedisEventLog]:
    log = RedisEventLog(f"{redis_server.url}?protocol={request.param}")
    yield log
    await log.close()


class TestRedisEventLog(EventLogContract):
    async def damage(self, log: RedisEventLog, job_id: str, seq: int) -> None:  # type: ignore[override]
        entry_id = f"{seq >> ATTEMPT_SHIFT}-{seq & LAST_N}"
        await log._redis.xadd(
            f"ragqueue:log:{job_id}", {"type": "delta", "colour": "red"}, entry_id
        )


@pytest.mark.parametrize("snapshots", [False, True])
async def test_nothing_that_was_dropped_is_left_in_the_files_of_redis(snapshots: bool) -> None:
    require_redis()
    canary = event(0, data={"text": "CANARY"})
    with RedisServer(appendonly=True) as server:
        log = RedisEventLog(server.url)
        if snapshots:
            await log._redis.config_set("save", "3600 1")
        await write(log, "a", -1, canary)
        await write(log, "b", -1, event(0))
        await log._redis.save()
        assert server.holds(b"CANARY")

        await log.drop(["a"])
        purged = await asyncio.gather(log.purge(), log.purge())
        if not snapshots:  # a file that Redis does not keep any more is not ours to write
            await log._redis.save()

        assert purged == [{"log_files": 1 + snapshots}] * 2
        assert not server.holds(b"CANARY")
        assert await everything(log, "b") == [event(0)]
        await log.close()


async def test_a_redis_that_does_not_let_its_files_be_written_is_counted_as_such() -> None:
    require_redis()
    with RedisServer(appendonly=True) as server:
        log = RedisEventLog(server.url)
        await log._redis.execute_command(
            "ACL", "SETUSER", "default", "-bgrewriteaof", "-bgsave", "-config"
        )

        assert await log.purge() == {"log_files": 0, "log_files_left": 2}
        await log.close()


async def test_another_process_wakes_a_waiting_read(redis_server: RedisServer) -> None:
    reader, writer = RedisEventLog(redis_server.url), RedisEventLog(redis_server.url)
    job = uuid.uuid4().hex

    reading = asyncio.create_task(reader.read({job: 0}, LIMIT * 2))
    await write(writer, job, -1, event(0))
    async with asyncio.timeout(LIMIT):
        assert await reading == {job: [event(0)]}

    await reader.close()
    await writer.close()


async def test_a_log_that_nobody_drops_goes_by_itself(redis_server: RedisServer) -> None:
    log = RedisEventLog(redis_server.url)
    job = uuid.uuid4().hex
    await write(log, job, -1, event(0))
    await log.close()

    with redis.Redis.from_url(redis_server.url) as client:
        assert 86_000 < client.ttl(f"ragqueue:log:{job}") <= 86_400
        assert client.xrange(f"ragqueue:log:{job}") == [
            (b"1-0", {b"type": b"delta", b"data": b'{"n":0}', b"at": b"1000.5"})
        ]


async def test_a_redis_that_went_away_is_unavailable_and_usable_when_it_is_back() -> None:
    require_redis()
    server = RedisServer(appendonly=True).start()
    log = RedisEventLog(server.url)
    job = uuid.uuid4().hex
    try:
        await write(log, job, -1, event(0))
        reading = asyncio.create_task(log.read({job: event(0).seq}, LIMIT * 2))
        server.kill()

        with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
            await write(log, job, event(0).seq, event(1))
        with pytest.raises(Unavailable):
            await reading
        server.start()

        assert await write(log, job, event(0).seq, event(1)) == event(1).seq
        assert await everything(log, job) == [event(0), event(1)]
    finally:
        await log.close()
        server.stop()


async def test_the_password_is_in_no_message() -> None:
    log = RedisEventLog("redis://user:hunter2@127.0.0.1:1/0?password=hunter3")

    with pytest.raises(Unavailable) as caught:
        await log.read({"a-job": 0})
    await log.close()

    assert "hunter" not in str(caught.value)
    assert "redis://****@127.0.0.1:1/0?password=****" in str(caught.value)


async def test_more_events_than_redis_takes_at_once_are_written_in_order(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragqueue.events.redis.EVENTS_AT_ONCE", 3)
    log = RedisEventLog(redis_server.url)
    job_ids = [uuid.uuid4().hex for _ in range(5)]
    events = [event(n) for n in range(4)]
    appends = [
        Append(job_id=job_id, after=-1, events=events[:count])
        for count, job_id in enumerate(job_ids)
    ]

    ends = await log.append(appends)

    assert ends == [0, *(each.seq for each in events)]
    for count, job_id in enumerate(job_ids):
        assert await everything(log, job_id) == events[:count]
    await log.close()

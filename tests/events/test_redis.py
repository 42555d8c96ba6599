import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
import redis

from campaigns.services import RedisServer, require_redis
from ragqueue.errors import Unavailable
from ragqueue.events.redis import RedisEventLog
from ragqueue.testing.contracts.engines import LIMIT, EventLogContract, event, everything, write


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
async def log(redis_server: RedisServer, request: pytest.FixtureRequest) -> AsyncIterator[RedisEventLog]:
    log = RedisEventLog(f"{redis_server.url}?protocol={request.param}")
    yield log
    await log.close()


class TestRedisEventLog(EventLogContract):
    pass


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
        assert client.xrange(f"ragqueue:log:{job}") == [(b"1-0", {b"type": b"delta", b"data": b'{"n":0}', b"at": b"1000.5"})]


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

"""/readyz says of each engine whether it does its work, not only whether it answers."""

import redis

from campaigns.services import RedisServer
from tests.needs import require_redis

from .conftest import Start


async def test_a_server_is_ready_on_a_redis_that_works(
    start: Start, redis_server: RedisServer
) -> None:
    redis_server.flush()
    server = await start(redis_url=redis_server.url)

    ready = await server.client.get("/readyz")

    assert (ready.status_code, ready.json()["checks"]) == (
        200,
        {"records": "ok", "events": "ok", "queue": "ok"},
    )


async def test_a_redis_that_no_longer_takes_writes_is_not_ready_until_it_does(start: Start) -> None:
    require_redis()
    with RedisServer() as own, redis.Redis.from_url(own.url) as client:
        server = await start(redis_url=own.url)
        client.replicaof("127.0.0.1", 1)
        broken = await server.client.get("/readyz")
        client.replicaof("NO", "ONE")
        mended = await server.client.get("/readyz")

    assert (broken.status_code, mended.status_code) == (503, 200)
    checks = broken.json()["checks"]
    assert checks["records"] == "ok"
    assert "READONLY" in checks["queue"]
    assert "READONLY" in checks["events"]


async def test_an_engine_of_ones_own_that_says_it_cannot_work_is_not_ready(start: Start) -> None:
    server = await start(queue="python:tests.api.unfit:UnfitLater")

    ready = await server.client.get("/readyz")

    assert (ready.status_code, ready.json()["checks"]["queue"]) == (503, "the broker takes no more")

from collections.abc import AsyncIterator

import pytest

from ragqueue.queues.rq import RQQueue
from ragqueue.testing.contracts.queues import QueueContract
from ragqueue.testing.services import RedisServer


@pytest.fixture
async def queue(redis_server: RedisServer) -> AsyncIterator[RQQueue]:
    redis_server.flush()
    queue = RQQueue(f"rq+{redis_server.url}")
    yield queue
    await queue.close()


@pytest.fixture
async def other(queue: RQQueue, redis_server: RedisServer) -> AsyncIterator[RQQueue]:
    other = RQQueue(redis_server.url)
    yield other
    await other.close()


class TestRQQueue(QueueContract):
    pass

from collections.abc import Iterator

import pytest

from campaigns.services import RedisServer
from tests.needs import require_redis


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    require_redis()
    server = RedisServer().start()
    yield server
    server.stop()

"""What a test needs of its machine: where it is missing the test is skipped, but fails in CI."""

import os
import shutil
from typing import NoReturn

import pytest

from campaigns.services import postgres_binaries


def missing(what: str) -> NoReturn:
    """Skip the test that needs what this machine lacks; fail it where CI is true."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def require_redis() -> None:
    """Skip the test where redis-server is not installed; fail it where CI is true."""
    if shutil.which("redis-server") is None:
        missing("redis-server is not installed: apt-get install redis-server")


def require_postgres() -> None:
    """Skip the test where no PostgreSQL server is installed; fail it where CI is true."""
    if postgres_binaries() is None:
        missing("there is no PostgreSQL server: apt-get install postgresql")

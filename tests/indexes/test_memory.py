"""The index that tests use instead of a real one."""

import pytest

from ragqueue.indexes.base import Index
from ragqueue.testing.contracts.indexes import IndexContract
from ragqueue.testing.doubles import MemoryIndex


class TestMemoryIndex(IndexContract):
    @pytest.fixture
    async def index(self) -> Index:
        return MemoryIndex()

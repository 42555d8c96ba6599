"""Wait for what is away: for services that come back by themselves."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ragqueue.errors import StoreFull, Unavailable

R = TypeVar("R")
logger = logging.getLogger(__name__)


async def patiently(use: Callable[..., Awaitable[R]], *given: Any) -> R:
    """Call until what is used is not away, nor its disk full: that is no fault of the job's, and its deadline bounds it."""
    pause = 0.05
    while True:
        try:
            return await use(*given)
        except (StoreFull, Unavailable) as error:
            logger.warning("waiting: %s", error)
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 2)

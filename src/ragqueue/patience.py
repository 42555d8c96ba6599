"""Wait for what is away: for services that come back by themselves."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ragqueue.errors import StoreFull, Unavailable

FIRST_PAUSE = 0.05  # seconds; doubled for each that follows
LONGEST_PAUSE = 1.0
R = TypeVar("R")
logger = logging.getLogger(__name__)


async def patiently(use: Callable[..., Awaitable[R]], *args: Any) -> R:
    """Call until what is used is not away, nor its disk full.

    That is no fault of the job's, and its deadline bounds it.
    """
    pause = FIRST_PAUSE
    while True:
        try:
            return await use(*args)
        except (StoreFull, Unavailable) as error:
            logger.warning("waiting: %s", error)
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

"""Keep the background loops of a process alive: nothing in it dies unseen.

A surprise in a loop is logged with its traceback, counted, waited out and gone on from. One that
comes again and again turns /readyz red, then ends the process, so that whoever supervises it starts
a new one.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from ragqueue import telemetry
from ragqueue.errors import Unavailable

FIRST_PAUSE = 0.1  # seconds after a surprise; doubled for each that follows
LONGEST_PAUSE = 5.0
CALM = 60.0  # seconds without a surprise after which the next one is the first again
TROUBLED_AFTER = 3  # surprises in a row: the process is not ready
BROKEN_AFTER = 10  # surprises in a row, about 25 s: it cannot heal by itself
logger = logging.getLogger(__name__)

Step = Callable[[], Awaitable[None]]


class Watch:
    """The health of one loop; may be used from the loop's own thread."""

    def __init__(self, name: str, give_up: Callable[[str], None]) -> None:
        self.name = name
        self.failures = 0  # in a row
        self._failed_at = 0.0
        self._give_up = give_up

    def went_well(self) -> None:
        """Note that a step of the loop came to its end."""
        self.failures = 0

    def failed(self, error: Exception) -> float:
        """Tell of a surprise, and return for how many seconds the loop should pause."""
        now = time.monotonic()
        if now - self._failed_at > CALM:
            self.failures = 0
        self.failures += 1
        self._failed_at = now
        telemetry.LOOP_FAILURES.labels(self.name).inc()
        logger.error("loop.failed loop=%s in_a_row=%d", self.name, self.failures, exc_info=error)
        if self.failures >= BROKEN_AFTER:
            self._give_up(self.name)
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (self.failures - 1))

    @property
    def troubled(self) -> bool:
        """Whether surprises come one after another."""
        lately = time.monotonic() - self._failed_at <= CALM
        return lately and self.failures >= TROUBLED_AFTER


class Keeper:
    """Keeps the loops of one process; made on the event loop that they run on."""

    def __init__(self) -> None:
        self.broken_loop = ""  # the one that made the process useless
        self._loop = asyncio.get_running_loop()
        self._watches: list[Watch] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._enders: list[Callable[[], object]] = []

    def keep(self, name: str, step: Step, *, every: Callable[[], float] | None = None) -> None:
        """Run `step` again and again until `close`, with pauses of `every()` seconds."""
        watch = self.watch(name)
        self._tasks.append(asyncio.create_task(_run(watch, step, every), name=f"loop-{name}"))

    def watch(self, name: str) -> Watch:
        """Return the watch over a loop that runs by itself and tells of its surprises."""
        watch = Watch(name, self._give_up)
        self._watches.append(watch)
        return watch

    def troubled(self) -> list[str]:
        """Return the names of the loops that fail again and again."""
        return sorted({watch.name for watch in self._watches if watch.troubled})

    def end_with(self, end: Callable[[], object]) -> None:
        """Call `end` on the event loop once a loop is beyond help: it asks the process to end."""
        self._enders.append(end)
        if self.broken_loop:
            end()

    def check(self) -> None:
        """Raise Unavailable once a loop is beyond help."""
        if self.broken_loop:
            raise Unavailable(
                f"the loop {self.broken_loop!r} of this process failed {BROKEN_AFTER} times "
                "in a row: see its log, and start the process again"
            )

    async def close(self) -> None:
        """End every kept loop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _give_up(self, name: str) -> None:
        self._loop.call_soon_threadsafe(self._break, name)

    def _break(self, name: str) -> None:
        if self.broken_loop:
            return
        self.broken_loop = name
        logger.critical("loop.broken loop=%s: the process ends, so that a new one can start", name)
        for end in self._enders:
            end()


async def _run(watch: Watch, step: Step, every: Callable[[], float] | None) -> None:
    while True:
        try:
            await step()
        except Exception as error:  # noqa: BLE001 - it is told, counted and gone on from
            await asyncio.sleep(watch.failed(error))
            continue
        watch.went_well()
        if every is not None:
            await asyncio.sleep(every())

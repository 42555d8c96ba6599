"""Do harm to the processes of a house while they answer: the faults of a plan, one by one."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from campaigns.faults.clients import Clients
from campaigns.faults.kill_house import House
from campaigns.faults.kill_plan import FULL, LEASE, STOPPED, Plan, faults
from campaigns.faults.kill_report import Report

LONGEST_PAUSE = 10.0  # seconds that a fault waits for its turn
AHEAD = 3  # faults that the questions are ahead of
HIT_SOMEBODY = 0.9  # share of the kills that choose a worker that runs something


class Harm:
    """Does the faults of a plan in their order, spread over the answers."""

    def __init__(self, plan: Plan, house: House, report: Report) -> None:
        self.faults = faults(plan)
        self.done = 0
        self._plan = plan
        self._house = house
        self._report = report
        self._rng = random.Random(plan.seed)
        self._acts: dict[str, Callable[[], Awaitable[None]]] = {
            "kill": self._kill,
            "host": self._host,
            "stop_host": self._stop_host,
            "stop_worker": self._stop_worker,
            "full_disk": self._full_disk,
            "surprise": self._surprise,
            "kill_api": self._kill_api,
            "kill_redis": self._kill_redis,
            "flush": self._flush,
            "kill_postgres": self._kill_postgres,
        }

    def may_ask(self, n: int) -> bool:
        """Say whether the n-th question is due: they are spread over the faults, a bit ahead."""
        return n * max(1, len(self.faults)) <= self._plan.jobs * (self.done + AHEAD)

    async def run(self, clients: Clients) -> None:
        """Do the faults one after another, spread over the answers."""
        for number, fault in enumerate(self.faults):
            await asyncio.sleep(self._rng.uniform(*self._plan.pause))
            await self._wait_for_turn(number, clients)
            await self._acts[fault]()
            self.done += 1

    async def _wait_for_turn(self, number: int, clients: Clients) -> None:
        # A fault that hits nobody shows nothing; faults faster than answers would only show how
        # fast workers start.
        jobs = self._plan.jobs
        due = jobs * (number - 2) // len(self.faults)
        counts = clients.counts
        end = time.monotonic() + LONGEST_PAUSE
        while counts.done < jobs and time.monotonic() < end:
            if counts.done >= due and counts.streaming and self._busy():
                return
            await asyncio.sleep(0.05)

    def _workers(self) -> list[int]:
        """Return the living workers."""
        workers = []
        for supervisor in self._house.supervisors:
            workers += self._house.workers(supervisor)
        return workers

    def _busy(self) -> list[int]:
        """Return the living workers that run something."""
        loaded = self._house.witness.loaded()
        return [pid for pid in self._workers() if loaded.get(pid)]

    async def _kill(self) -> None:
        victims = []
        if self._rng.random() < HIT_SOMEBODY:
            victims = self._busy()
        victims = victims or self._workers()
        if victims:
            self._house.kill_worker(self._rng.choice(victims))
            self._report.kills += 1

    async def _host(self) -> None:
        """Kill a whole supervisor, one that works if there is any."""
        busy = set(self._busy())
        supervisors = list(self._house.supervisors)
        self._rng.shuffle(supervisors)
        working = [pid for pid in supervisors if busy & set(self._house.workers(pid))]
        supervisor = (working or supervisors)[0]
        self._report.kills += len(self._house.workers(supervisor))
        self._report.host_kills += 1
        self._house.kill_host(supervisor)
        await asyncio.sleep(LEASE)

    async def _stop_host(self) -> None:
        """Stop the supervisor with the most workers that run something."""
        busy = set(self._busy())

        def load(supervisor: int) -> int:
            return len(busy & set(self._house.workers(supervisor)))

        supervisor = max(self._house.supervisors, key=load)
        self._report.stops += 1
        await self._house.stop_for(self._house.whole(supervisor), STOPPED)

    async def _stop_worker(self) -> None:
        self._report.stops += 1
        victims = self._busy()
        if victims:
            await self._house.stop_for([self._rng.choice(victims)], STOPPED)

    async def _full_disk(self) -> None:
        self._report.full_disks += 1
        await self._house.fill_disk(self._rng.uniform(*FULL))

    async def _surprise(self) -> None:
        self._house.surprise()
        await asyncio.sleep(LEASE)

    async def _kill_api(self) -> None:
        await self._house.kill_api()

    async def _kill_redis(self) -> None:
        server = self._house.redis
        if server:
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(1)
            await asyncio.to_thread(server.start)
            self._report.broker_restarts += 1
            await asyncio.sleep(1)

    async def _kill_postgres(self) -> None:
        server = self._house.postgres
        if server:
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(1)
            await asyncio.to_thread(server.start)
            self._report.broker_restarts += 1
            await asyncio.sleep(1)

    async def _flush(self) -> None:
        server = self._house.redis
        if server:
            await asyncio.to_thread(server.flush)
            await asyncio.sleep(1)

"""Kill, stop and restart real processes under real questions, and audit what clients and store say afterwards.

python3 dev.py faults --engine sql|rq --jobs N --kills K --workers W --slots S --seed X [--json] [--keep]
python3 dev.py faults --engine sql|rq --jobs N --full-disks N         the disk is full and free again (needs root)
python3 dev.py faults --engine sql|rq --mutation NAME [--json]        a build that must fail the audit
python3 dev.py faults --engine sql --mutation loop-NAME --kept        the same surprise with the keeper in: no damage
python3 dev.py faults --mutation list
"""

import argparse
import asyncio
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import redis

from campaigns.faults import powercut
from campaigns.faults.auditor import Entry, Finding, audit, count, read_store
from campaigns.faults.clients import Clients, Transcript
from campaigns.faults.kill_house import CampaignError, House
from campaigns.faults.kill_plan import (
    BEAT,
    CUTS,
    FULL,
    LEASE,
    LOOPS,
    MUTATIONS,
    STOPPED,
    Plan,
    faults,
    questions,
)
from campaigns.faults.witness import Times
from campaigns.house import quantile
from campaigns.services import RedisServer
from ragqueue.errors import told
from ragqueue.types import seq_of

LONGEST_PAUSE = 10.0  # seconds that a fault waits for its turn


@dataclass
class Report:
    """What `faults --json` prints; times in seconds."""

    engine: str
    jobs: int
    ended: int = 0
    kills: int = 0
    stops: int = 0
    host_kills: int = 0
    full_disks: int = 0
    lost: int = 0
    doubled_answers: int = 0
    stream_gaps: int = 0
    stream_doubles: int = 0
    zombie_writes: int = 0
    wrongly_dead: int = 0
    lease_s: float = LEASE
    recovery_p50_s: float | None = None
    recovery_p99_s: float | None = None
    recovery_host_p99_s: float | None = None
    reclaim_p50_s: float | None = None
    reclaim_p99_s: float | None = None

    def take_times(self, times: Times) -> None:
        """Take the quantiles in."""
        self.recovery_p50_s, self.recovery_p99_s = (
            _quantile(times.recovery, 0.5),
            _quantile(times.recovery, 0.99),
        )
        self.recovery_host_p99_s = _quantile(times.recovery_host, 0.99)
        self.reclaim_p50_s, self.reclaim_p99_s = (
            _quantile(times.reclaim, 0.5),
            _quantile(times.reclaim, 0.99),
        )


def _quantile(values: Sequence[float], share: float) -> float | None:
    return round(quantile(values, share), 3) if values else None


def run(
    engine: str,
    jobs: int,
    kills: int,
    workers: int,
    slots: int,
    seed: int,
    mutation: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Run a campaign (with a mutation: its own small one) and return what `--json` prints. Raises CampaignError."""
    if mutation is not None:
        return run_mutation(engine, mutation, seed=seed, **options)
    return asyncio.run(Campaign(Plan(engine, jobs, kills, workers, slots, seed, **options)).run())


def run_mutation(
    engine: str, mutation: str, *, seed: int = 1, kept: bool = False, **options: Any
) -> dict[str, Any]:
    """Run the campaign that a broken build must fail, or that a `kept` loop must survive. Raises CampaignError."""
    if mutation not in MUTATIONS:
        raise CampaignError(f"there is no mutation {mutation!r}: use one of {', '.join(MUTATIONS)}")
    if kept and not mutation.startswith("loop-"):
        raise CampaignError(
            f"--kept is about loops: use it with one of {', '.join(f'loop-{loop}' for loop in LOOPS)}"
        )
    if kept:
        options["mutation"] = f"{mutation}-kept"
    if mutation != "full_commit":
        plan = replace(MUTATIONS[mutation], engine=engine, seed=seed, **options)
        return asyncio.run(Campaign(plan).run()) | {"acked_lost": 0}
    if engine != "sql":
        raise CampaignError("full_commit is about the disk: use --engine sql")
    try:
        found = powercut.run(CUTS, "full_commit", seed=seed)
    except powercut.PowercutError as error:
        raise CampaignError(str(error)) from error
    return asdict(Report("sql", CUTS, ended=CUTS)) | {"acked_lost": found["lost"]}


class Campaign:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._rng = plan, random.Random(plan.seed)
        self._report = Report(plan.engine, plan.jobs)
        self._faults_done = 0
        self._faults: list[str] = []
        self._loops: dict[str, int] = {}

    async def run(self) -> dict[str, Any]:
        """Do everything and return the report."""
        folder = Path(tempfile.mkdtemp(prefix="ragqueue-faults-"))
        plan = self._plan
        settings = {
            "LLM_MODEL": plan.model,
            "RAGQUEUE_LEASE": str(LEASE),
            "RAGQUEUE_BEAT": str(BEAT),
            "RAGQUEUE_DRAIN": "3",
            "RAGQUEUE_KEEP_EVENTS": "86400",
            "RAGQUEUE_LOG_LEVEL": "WARNING",
        }
        house = House(
            folder,
            plan.engine,
            slots=plan.slots,
            settings=settings,
            mutation=plan.mutation,
            disk=plan.disk,
        )
        try:
            with _told("start"):
                await house.begin(plan.workers)
            with _told("load and faults"):
                await self._under_load(house, folder)
            if (plan.mutation or "").startswith("loop-"):
                self._loops = await asyncio.to_thread(house.loops)
            log = house.witness.log() if house.redis is None else redis_log(house.redis)
            with _told("end"):
                house.end()
            with _told("audit"):
                self._audit(house, folder, log)
        finally:
            house.end()
            if plan.keep:
                _say(f"everything is kept in {folder}")
            else:
                house.unmount()
                shutil.rmtree(folder, ignore_errors=True)
        return asdict(self._report) | self._loops

    async def _under_load(self, house: House, folder: Path) -> None:
        plan = self._plan
        transcript = Transcript(folder / "transcript.jsonl")
        clients = Clients(
            house.port,
            questions(),
            transcript,
            random.Random(plan.seed + 1),
            at_once=max(20, plan.workers * plan.slots * 2 // 3),
            patience=plan.patience,
        )
        self._faults = faults(plan)
        asking = asyncio.create_task(clients.run(plan.jobs, self._may_ask))
        harming = asyncio.create_task(self._harm(house, clients))
        watching = asyncio.create_task(self._tell(clients))
        try:
            done, _ = await asyncio.wait(
                [asking, harming], timeout=plan.limit, return_when=asyncio.FIRST_EXCEPTION
            )
            for task in done:
                task.result()
        finally:
            for task in (asking, harming, watching):
                task.cancel()
            await asyncio.gather(asking, harming, watching, return_exceptions=True)
            transcript.close()

    def _may_ask(self, n: int) -> bool:
        """Spread the questions over the faults, three faults ahead of them."""
        return n * max(1, len(self._faults)) <= self._plan.jobs * (self._faults_done + 3)

    async def _harm(self, house: House, clients: Clients) -> None:
        """Do the faults one after another, spread over the answers."""
        for number, fault in enumerate(self._faults):
            await asyncio.sleep(self._rng.uniform(*self._plan.pause))
            due = self._plan.jobs * (number - 2) // len(self._faults)
            end = time.monotonic() + LONGEST_PAUSE
            while clients.counts.done < self._plan.jobs and time.monotonic() < end:
                # A fault that hits nobody shows nothing; faults faster than answers would only show how fast workers start.
                if clients.counts.done >= due and clients.counts.streaming and self._busy(house):
                    break
                await asyncio.sleep(0.05)
            await getattr(self, f"_{fault}")(house)
            self._faults_done += 1

    def _busy(self, house: House) -> list[int]:
        """Return the living workers that run something."""
        loaded = house.witness.loaded()
        return [
            pid
            for supervisor in house.supervisors
            for pid in house.workers(supervisor)
            if loaded.get(pid)
        ]

    async def _kill(self, house: House) -> None:
        victims = self._busy(house) if self._rng.random() < 0.9 else []
        victims = victims or [
            pid for supervisor in house.supervisors for pid in house.workers(supervisor)
        ]
        if victims:
            house.kill_worker(self._rng.choice(victims))
            self._report.kills += 1

    async def _host(self, house: House) -> None:
        busy = set(self._busy(house))
        supervisors = list(house.supervisors)
        self._rng.shuffle(supervisors)
        supervisor = max(supervisors, key=lambda pid: bool(busy & set(house.workers(pid))))
        self._report.kills += len(house.workers(supervisor))
        self._report.host_kills += 1
        house.kill_host(supervisor)
        await asyncio.sleep(LEASE)

    async def _stop_host(self, house: House) -> None:
        busy = set(self._busy(house))
        supervisor = max(house.supervisors, key=lambda pid: len(busy & set(house.workers(pid))))
        self._report.stops += 1
        await house.stop_for(house.whole(supervisor), STOPPED)

    async def _stop_worker(self, house: House) -> None:
        self._report.stops += 1
        if victims := self._busy(house):
            await house.stop_for([self._rng.choice(victims)], STOPPED)

    async def _full_disk(self, house: House) -> None:
        self._report.full_disks += 1
        await house.fill_disk(self._rng.uniform(*FULL))

    async def _surprise(self, house: House) -> None:
        house.surprise()
        await asyncio.sleep(LEASE)

    async def _kill_api(self, house: House) -> None:
        await house.kill_api()

    async def _kill_redis(self, house: House) -> None:
        if house.redis:
            await asyncio.to_thread(house.redis.kill)
            await asyncio.sleep(1)
            await asyncio.to_thread(house.redis.start)
            await asyncio.sleep(1)

    async def _flush(self, house: House) -> None:
        if house.redis:
            await asyncio.to_thread(house.redis.flush)
            await asyncio.sleep(1)

    async def _tell(self, clients: Clients) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(5)
            c, r = clients.counts, self._report
            done = f"asked {c.asked} accepted {c.acked} done {c.done} streaming {c.streaming} gave up {c.gave_up}"
            _say(
                f"{time.monotonic() - began:4.0f} s  {done}; faults {self._faults_done}/{len(self._faults)}: kills {r.kills}"
            )

    def _audit(self, house: House, folder: Path, log: Sequence[Entry]) -> None:
        store = read_store(folder / "data" / "records.sqlite3")
        with (folder / "transcript.jsonl").open(encoding="utf-8") as lines:
            # The scripted model continues, so only Redis can lose what a reader was shown.
            findings = audit(
                store,
                log,
                map(json.loads, lines),
                moves=house.witness.changes(),
                may_restart=house.redis is not None,
            )
        for kind, number in count(findings).items():
            setattr(self._report, kind, number)
        self._report.ended = sum(
            row.state in ("succeeded", "failed", "cancelled") for row in store.rows.values()
        )
        self._report.take_times(house.witness.times(house.kills))
        self._tell_findings(findings, house)

    def _tell_findings(self, findings: Sequence[Finding], house: House) -> None:
        for finding in findings[:20]:
            _say(f"{finding.kind}: job {finding.job_id}: {finding.detail[:300]}")
        deaths: dict[int, int] = {}
        for deaths_of_job in {
            change.job_id: change.deaths for change in house.witness.changes()
        }.values():
            deaths[deaths_of_job] = deaths.get(deaths_of_job, 0) + 1
        _say(f"jobs by deaths: {dict(sorted(deaths.items()))}")


def redis_log(server: RedisServer) -> list[Entry]:
    """Return the entries of all logs in Redis, each log in its order."""
    entries = []
    with redis.Redis.from_url(server.url) as client:
        for key in client.scan_iter("ragqueue:log:*", 1000):
            for entry_id, fields in client.xrange(key):
                attempt, _, n = entry_id.partition(b"-")
                entries.append(
                    Entry(
                        key.decode().rpartition(":")[2],
                        seq_of(int(attempt), int(n)),
                        fields[b"type"].decode(),
                    )
                )
    return entries


@contextmanager
def _told(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    _say(f"{what}: {time.monotonic() - began:.1f} s")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line says and print what was found."""
    parser = argparse.ArgumentParser(
        prog="dev.py faults", description="Kills real processes under load and audits what is left."
    )
    parser.add_argument("--engine", choices=("sql", "rq"), default="sql")
    for name, default in (("jobs", 300), ("kills", 20), ("workers", 3), ("slots", 50), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--full-disks",
        type=int,
        default=0,
        help="so often the disk is full for some seconds; nobody is killed",
    )
    parser.add_argument("--mutation", help="a broken build, or `list`")
    parser.add_argument(
        "--kept",
        action="store_true",
        help="with a loop- mutation: the keeper is in, nothing may be lost",
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--keep", action="store_true", help="keep the folder with database, logs and transcript"
    )
    said = parser.parse_args(argv)
    if said.mutation == "list":
        print(*MUTATIONS, sep="\n")
        return 0
    if said.kept and not said.mutation:
        parser.error("--kept needs --mutation loop-NAME")
    more: dict[str, Any] = {"kept": True} if said.kept else {}
    if said.full_disks:
        more["faults"] = ("full_disk",) * said.full_disks
    _say(f"seed {said.seed}")
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # so that everything that was started is ended
    try:
        found = run(
            said.engine,
            said.jobs,
            said.kills,
            said.workers,
            said.slots,
            said.seed,
            said.mutation,
            keep=said.keep,
            **more,
        )
    except (CampaignError, TimeoutError) as error:
        print(f"faults: {told(error)}", file=sys.stderr)
        return 2
    print(
        json.dumps(found)
        if said.json
        else "\n".join(f"{name:20} {value}" for name, value in found.items())
    )
    return 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())

"""One run of a plan: real processes, clients and harm, and the audit afterwards."""

import asyncio
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import redis

from campaigns.faults.auditor import audit, count
from campaigns.faults.clients import Clients, Transcript
from campaigns.faults.evidence import Entry, Finding, read_store
from campaigns.faults.harm import Harm
from campaigns.faults.kill_house import House
from campaigns.faults.kill_plan import BEAT, LEASE, Plan, questions
from campaigns.faults.kill_report import Report
from campaigns.faults.witness import Change
from campaigns.house import say
from campaigns.services import RedisServer
from ragqueue.types import ENDED, seq_of

TELL_EVERY = 5  # seconds
FINDINGS_TOLD = 20
LONGEST_DETAIL = 300  # characters


class Campaign:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._folder = Path(tempfile.mkdtemp(prefix="ragqueue-faults-"))
        self._report = Report(plan.engine, plan.jobs)
        self._house = House(
            self._folder,
            plan.engine,
            slots=plan.slots,
            settings=_settings(plan),
            mutation=plan.mutation,
            disk=plan.disk,
        )

    async def run(self) -> dict[str, Any]:
        """Do everything and return the report. Raises CampaignError."""
        house = self._house
        loops: dict[str, int] = {}
        try:
            with _timed("start"):
                await house.begin(self._plan.workers)
            with _timed("load and faults"):
                await self._under_load()
            if (self._plan.mutation or "").startswith("loop-"):
                loops = await asyncio.to_thread(house.loops)
            log = house.witness.log() if house.redis is None else redis_log(house.redis)
            with _timed("end"):
                house.end()
            with _timed("audit"):
                self._audit(log)
        finally:
            self._take_down()
        return asdict(self._report) | loops

    def _take_down(self) -> None:
        self._house.end()
        self._house.close()
        if self._plan.keep:
            say(f"everything is kept in {self._folder}")
            return
        self._house.unmount()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _under_load(self) -> None:
        """Let clients ask while harm is done, until both have ended or the plan's limit."""
        plan = self._plan
        transcript = Transcript(self._folder / "transcript.jsonl")
        clients = Clients(
            self._house.port,
            questions(),
            transcript,
            random.Random(plan.seed + 1),
            at_once=max(20, plan.workers * plan.slots * 2 // 3),
            patience=plan.patience,
        )
        harm = Harm(plan, self._house, self._report)
        asking = asyncio.create_task(clients.run(plan.jobs, harm.may_ask))
        harming = asyncio.create_task(harm.run(clients))
        telling = asyncio.create_task(self._tell(clients, harm))
        try:
            done, _ = await asyncio.wait(
                [asking, harming], timeout=plan.limit, return_when=asyncio.FIRST_EXCEPTION
            )
            for task in done:
                task.result()
        finally:
            for task in (asking, harming, telling):
                task.cancel()
            await asyncio.gather(asking, harming, telling, return_exceptions=True)
            transcript.close()

    async def _tell(self, clients: Clients, harm: Harm) -> None:
        """Say again and again how far everything is."""
        began = time.monotonic()
        counts = clients.counts
        while True:
            await asyncio.sleep(TELL_EVERY)
            say(
                f"{time.monotonic() - began:4.0f} s  asked {counts.asked} accepted {counts.acked} "
                f"done {counts.done} streaming {counts.streaming} gave up {counts.gave_up}; "
                f"faults {harm.done}/{len(harm.faults)}: kills {self._report.kills}"
            )

    def _audit(self, log: Sequence[Entry]) -> None:
        """Find broken promises, and put their numbers and the times into the report."""
        house = self._house
        report = self._report
        store = read_store(house.database)
        changes = house.witness.changes()
        with (self._folder / "transcript.jsonl").open(encoding="utf-8") as lines:
            # The scripted model continues, so only a server that is killed can lose what a reader
            # was shown.
            findings = audit(
                store,
                log,
                map(json.loads, lines),
                moves=changes,
                may_restart=house.redis is not None or house.postgres is not None,
            )
        for kind, number in count(findings).items():
            setattr(report, kind, number)
        report.ended = len([row for row in store.rows.values() if row.state in ENDED])
        report.take_times(house.witness.times(house.kills))
        _tell_findings(findings, changes)


def _settings(plan: Plan) -> dict[str, str]:
    return {
        "LLM_MODEL": plan.model,
        "RAGQUEUE_LEASE": str(LEASE),
        "RAGQUEUE_BEAT": str(BEAT),
        "RAGQUEUE_DRAIN": "3",
        "RAGQUEUE_KEEP_EVENTS": "86400",
        "RAGQUEUE_LOG_LEVEL": "WARNING",
    }


def _tell_findings(findings: Sequence[Finding], changes: Sequence[Change]) -> None:
    for finding in findings[:FINDINGS_TOLD]:
        say(f"{finding.kind}: job {finding.job_id}: {finding.detail[:LONGEST_DETAIL]}")
    deaths_of = {change.job_id: change.deaths for change in changes}
    jobs_by_deaths = Counter(deaths_of.values())
    say(f"jobs by deaths: {dict(sorted(jobs_by_deaths.items()))}")


def redis_log(server: RedisServer) -> list[Entry]:
    """Return the entries of all logs in Redis, each log in its order."""
    entries = []
    with redis.Redis.from_url(server.url) as client:
        for key in client.scan_iter("ragqueue:log:*", 1000):
            job_id = key.decode().rpartition(":")[2]
            for entry_id, fields in client.xrange(key):
                attempt, _, n = entry_id.partition(b"-")
                seq = seq_of(int(attempt), int(n))
                entries.append(Entry(job_id, seq, fields[b"type"].decode()))
    return entries


@contextmanager
def _timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - began:.1f} s")

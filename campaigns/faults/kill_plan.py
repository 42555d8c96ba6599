"""What a kill loop does: its faults, its questions, and the runs that a broken build must fail."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from campaigns.faults.kill_house import ON_POSTGRES, CampaignError
from campaigns.house import PAGES

LEASE = 2.0  # seconds
BEAT = 0.5  # seconds
STOPPED = LEASE + 1.5  # seconds
FULL = (1.0, 8.0)  # seconds that a disk is full
CUTS = 200  # power cuts of the mutation `full_commit`
EVERY_HOST = 30  # of so many kills one is a host
EVERY_STOP = 20
FEWEST_QUESTIONS = 24


@dataclass(frozen=True)
class Plan:
    """What a run does."""

    engine: str
    jobs: int
    kills: int
    workers: int
    slots: int
    seed: int
    mutation: str | None = None
    faults: Sequence[str] | None = None  # None: kills, hosts and stops in their proportion
    model: str = "scripted:rate=20&tokens=20"
    pause: tuple[float, float] = (0.5, 1.5)  # seconds between faults
    patience: float = 150.0  # seconds that a client waits for its answer
    keep: bool = False

    @property
    def disk(self) -> bool:
        """Whether the data folder must be a disk that can be filled."""
        return "full_disk" in (self.faults or ())

    @property
    def limit(self) -> float:
        """Seconds for everything: what is not done by then counts as lost."""
        return max(800.0, 3.0 * self.kills + 0.15 * self.jobs)


# Few jobs that surely do damage: zombies need long answers and a stop of a whole supervisor, lost
# leases the death of a host while somebody works there, lost rings a flush while somebody waits.
_LONG = "scripted:rate=10&tokens=40"


def _broken(
    mutation: str, harm: Sequence[str], *, jobs: int = 24, slots: int = 5, patience: float = 25
) -> Plan:
    """Return the plan of a broken build; its engine and seed are put in later."""
    return Plan(
        engine="",
        jobs=jobs,
        kills=0,
        workers=2,
        slots=slots,
        seed=1,
        mutation=mutation,
        faults=harm,
        model=_LONG,
        patience=patience,
    )


# The background loops of a process.
LOOPS = ("ringer", "batcher", "reconciler", "hub", "beat", "lanes")
MUTATIONS = {
    "fence": _broken("fence", ("stop_host",) * 3, jobs=60, slots=30, patience=60),
    "reconcile": _broken("reconcile", ("flush", "host"), patience=20),
    "full_commit": Plan("sql", CUTS, 0, 0, 0, 1, "full_commit"),
    "loop-ringer": _broken("loop-ringer", ("surprise",)),
    "loop-batcher": _broken("loop-batcher", ("surprise",)),
    # leases are looked for where a host died
    "loop-reconciler": _broken("loop-reconciler", ("surprise", "host")),
    "loop-hub": _broken("loop-hub", ("surprise",)),
    "loop-beat": _broken("loop-beat", ("surprise",)),
    "loop-lanes": _broken("loop-lanes", ("surprise",)),
}


def faults(plan: Plan) -> list[str]:
    """Return the faults of a plan in their order."""
    if plan.faults is not None:
        return list(plan.faults)
    hosts = max(1, plan.kills // EVERY_HOST)
    order = ["kill"] * (plan.kills - hosts) + ["host"] * hosts
    random.Random(plan.seed).shuffle(order)
    _insert_stops(order, max(2, plan.kills // EVERY_STOP))
    if plan.engine.startswith("rq"):
        order.insert(len(order) * 2 // 5, "kill_redis")
        order.insert(len(order) * 3 // 5, "flush")
    if plan.engine in ON_POSTGRES:
        order.insert(len(order) // 2, "kill_postgres")
    order.insert(len(order) * 3 // 4, "kill_api")
    return order


def _insert_stops(order: list[str], stops: int) -> None:
    """Spread stops over the faults, of a host and of a worker in turn."""
    for n in range(stops):
        place = (2 * n + 1) * len(order) // (2 * stops)
        stop = "stop_host" if n % 2 == 0 else "stop_worker"
        order.insert(place, stop)


def questions() -> list[str]:
    """Return some dozens of questions about the samples, made from their headings.

    Raises CampaignError when there are too few.
    """
    headings: set[str] = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        headings.update(re.findall(r"^#+ ([^{\n]+)", text, re.MULTILINE))
    if len(headings) < FEWEST_QUESTIONS:
        raise CampaignError(f"the pages have only {len(headings)} headings")
    return [_question_about(heading) for heading in sorted(headings)]


def _question_about(heading: str) -> str:
    return f"What do the documents say about {heading.strip().lower()}?"

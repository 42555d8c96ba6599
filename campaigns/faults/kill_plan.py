"""What a kill loop does: faults in their order, questions, and the small runs that a broken build must fail."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from campaigns.faults.kill_house import CampaignError
from campaigns.house import PAGES

LEASE, BEAT = 2.0, 0.5  # seconds
STOPPED = LEASE + 1.5  # seconds
FULL = (1.0, 8.0)  # seconds that a disk is full
CUTS = 200  # power cuts of the mutation `full_commit`
EVERY_HOST = 30  # of so many kills one is a host
EVERY_STOP = 20


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


# Few jobs that surely do damage: zombies need long answers and a stop of a whole supervisor, lost leases the death of a host while
# somebody works there, lost rings a flush while somebody waits.
_LONG = "scripted:rate=10&tokens=40"
MUTATIONS = {
    "fence": Plan(
        "", 60, 0, 2, 30, 1, "fence", faults=("stop_host",) * 3, model=_LONG, patience=60
    ),
    "reconcile": Plan(
        "", 24, 0, 2, 5, 1, "reconcile", faults=("flush", "host"), model=_LONG, patience=20
    ),
    "full_commit": Plan("sql", CUTS, 0, 0, 0, 1, "full_commit"),
}
LOOPS = (
    "ringer",
    "batcher",
    "reconciler",
    "hub",
    "beat",
    "lanes",
)  # the background loops of a process
for loop in LOOPS:  # leases are looked for where a host died
    harm = ("surprise", "host") if loop == "reconciler" else ("surprise",)
    MUTATIONS[f"loop-{loop}"] = Plan(
        "", 24, 0, 2, 5, 1, f"loop-{loop}", faults=harm, model=_LONG, patience=25
    )


def faults(plan: Plan) -> list[str]:
    """Return the faults of a plan in their order."""
    if plan.faults is not None:
        return list(plan.faults)
    hosts, stops = max(1, plan.kills // EVERY_HOST), max(2, plan.kills // EVERY_STOP)
    order = ["kill"] * (plan.kills - hosts) + ["host"] * hosts
    random.Random(plan.seed).shuffle(order)
    for n in range(stops):
        order.insert(
            (2 * n + 1) * len(order) // (2 * stops), "stop_worker" if n % 2 else "stop_host"
        )
    if plan.engine == "rq":
        order.insert(len(order) * 2 // 5, "kill_redis")
        order.insert(len(order) * 3 // 5, "flush")
    order.insert(len(order) * 3 // 4, "kill_api")
    return order


def questions() -> list[str]:
    """Return some dozens of questions about the samples, made from their headings."""
    headings = {
        heading
        for path in PAGES
        for heading in re.findall(r"^#+ ([^{\n]+)", path.read_text(encoding="utf-8"), re.M)
    }
    if len(headings) < 24:
        raise CampaignError(f"the pages have only {len(headings)} headings")
    return [
        f"What do the documents say about {heading.strip().lower()}?"
        for heading in sorted(headings)
    ]

"""Real processes are killed under load and lose nothing; broken builds are found out.

Long forms: `dev.py faults`.
"""

import itertools
import os
from typing import Any

import pytest

from campaigns.faults import erasures, kill_loop, kill_plan
from campaigns.faults.evidence import DAMAGE
from campaigns.faults.kill_house import CampaignError
from tests.needs import missing, require_postgres, require_redis

ENGINES = ("sql", "rq")
SETUPS = (*ENGINES, "postgres", "rq-postgres")


def damage(found: dict[str, Any]) -> dict[str, int]:
    return {kind: found[kind] for kind in (*DAMAGE, "acked_lost") if found.get(kind)}


def require(engine: str) -> None:
    if engine.startswith("rq"):
        require_redis()
    if engine.endswith("postgres"):
        require_postgres()


@pytest.mark.campaign
@pytest.mark.parametrize("setup", SETUPS)
def test_a_kill_loop_loses_doubles_and_tears_nothing(setup: str) -> None:
    require(setup)

    found = kill_loop.run(setup, jobs=100, kills=8, workers=3, slots=50, seed=7)

    assert damage(found) == {}
    assert found["jobs"] == found["ended"] == 100
    assert found["kills"] >= 8
    assert found["stops"] >= 2
    assert found["host_kills"] >= 1
    assert found["broker_restarts"] == setup.count("rq") + setup.count("postgres")


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("setup", "mutation"),
    [*itertools.product(ENGINES, ("fence", "reconcile")), ("postgres", "fence")],
)
def test_a_broken_build_does_damage_that_is_seen(setup: str, mutation: str) -> None:
    require(setup)

    assert damage(kill_loop.run_mutation(setup, mutation, seed=7)) != {}


@pytest.mark.campaign
def test_a_loop_that_nobody_keeps_does_damage_and_a_kept_one_does_none() -> None:
    bare = kill_loop.run_mutation("sql", "loop-batcher")
    kept = kill_loop.run_mutation("sql", "loop-batcher", kept=True)

    assert damage(bare) != {}
    assert bare["unseen_loop_deaths"] >= 1
    assert damage(kept) == {}
    assert kept["unseen_loop_deaths"] == 0
    assert kept["loop_failures"] >= 1


@pytest.mark.campaign
def test_a_full_disk_is_waited_for_and_costs_nothing() -> None:
    if os.geteuid() != 0:
        missing("only root may mount a disk that can be filled")

    found = kill_loop.run(
        "sql", jobs=60, kills=0, workers=2, slots=20, seed=7, faults=("full_disk",) * 2
    )

    assert damage(found) == {}
    assert (found["ended"], found["full_disks"]) == (60, 2)


@pytest.mark.campaign
@pytest.mark.parametrize("engine", ENGINES)
def test_an_erasure_leaves_nothing_whatever_races_with_it(engine: str) -> None:
    require(engine)

    found = erasures.run(engine, 16)

    assert found["rounds"] == 16
    assert [found[name] for name in ("stuck", "cancelled", "shown", "streamed", "left")] == [0] * 5


def test_only_a_loop_can_be_kept() -> None:
    with pytest.raises(CampaignError, match="--kept is about loops"):
        kill_loop.run_mutation("sql", "fence", kept=True)


def test_faults_are_spread_over_the_run() -> None:
    plan = kill_plan.Plan("rq", 2000, 120, 3, 50, 7)

    order = kill_plan.faults(plan)

    assert order.count("kill") + order.count("host") == 120
    assert order.count("host") == 4
    assert {"stop_host", "stop_worker", "kill_redis", "flush", "kill_api"} < set(order)
    assert 0 < order.index("stop_host") < order.index("stop_worker") < len(order)


def test_the_same_seed_gives_the_same_faults() -> None:
    plan = kill_plan.Plan("sql", 300, 20, 3, 50, 7)

    assert kill_plan.faults(plan) == kill_plan.faults(plan)


def test_questions_are_drawn_from_the_samples() -> None:
    assert len(set(kill_plan.questions())) >= 24


def test_an_unknown_mutation_is_refused() -> None:
    with pytest.raises(CampaignError, match="no mutation 'nothing'"):
        kill_loop.run_mutation("sql", "nothing")


def test_the_mutations_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("ringer", "batcher", "reconciler", "hub", "beat", "lanes")
    loops = [f"loop-{name}" for name in names]

    assert kill_loop.main(["--mutation", "list"]) == 0
    assert capsys.readouterr().out.split() == ["fence", "reconcile", "full_commit", *loops]

"""Kill, stop and restart real processes under real questions, and audit what is left.

python3 dev.py faults --engine sql|rq|postgres|rq-postgres --jobs N --kills K
    --workers W --slots S --seed X [--json] [--keep]
python3 dev.py faults --engine sql|rq --jobs N --full-disks N
    the disk is full and free again (needs root)
python3 dev.py faults --engine sql|rq --mutation NAME [--json]
    a build that must fail the audit
python3 dev.py faults --engine sql --mutation loop-NAME --kept
    the same surprise with the keeper in: no damage
python3 dev.py faults --mutation list

The audit compares what clients and store say afterwards.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from campaigns.faults import powercut
from campaigns.faults.campaign import Campaign
from campaigns.faults.kill_house import CampaignError
from campaigns.faults.kill_plan import CUTS, LOOPS, MUTATIONS, Plan
from campaigns.faults.kill_report import Report
from campaigns.faults.powercut_recorder import PowercutError
from campaigns.house import print_report, say
from ragqueue.errors import told

ENGINES = ("sql", "rq", "postgres", "rq-postgres")


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
    """Run a campaign (with a mutation: its own small one) and return what `--json` prints.

    `options` are those of the plan, and `kept`. Raises CampaignError.
    """
    if mutation is not None:
        return run_mutation(engine, mutation, seed=seed, **options)
    plan = Plan(engine, jobs, kills, workers, slots, seed, **options)
    return asyncio.run(Campaign(plan).run())


def run_mutation(
    engine: str, mutation: str, *, seed: int = 1, kept: bool = False, **options: Any
) -> dict[str, Any]:
    """Run the campaign that a broken build must fail, or that a `kept` loop must survive.

    Raises CampaignError.
    """
    if mutation not in MUTATIONS:
        raise CampaignError(f"there is no mutation {mutation!r}: use one of {', '.join(MUTATIONS)}")
    if kept:
        if not mutation.startswith("loop-"):
            names = ", ".join(f"loop-{loop}" for loop in LOOPS)
            raise CampaignError(f"--kept is about loops: use it with one of {names}")
        options["mutation"] = f"{mutation}-kept"
    if mutation == "full_commit":
        return _cut_power(engine, seed)
    plan = replace(MUTATIONS[mutation], engine=engine, seed=seed, **options)
    return asyncio.run(Campaign(plan).run()) | {"acked_lost": 0}


def _cut_power(engine: str, seed: int) -> dict[str, Any]:
    """Run the mutation that only a power cut shows. Raises CampaignError."""
    if engine != "sql":
        raise CampaignError("full_commit is about the disk: use --engine sql")
    try:
        cuts = powercut.run(CUTS, "full_commit", seed=seed)
    except PowercutError as error:
        raise CampaignError(str(error)) from error
    return asdict(Report("sql", CUTS, ended=CUTS)) | {"acked_lost": cuts["lost"]}


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line says and print the report."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.mutation == "list":
        print(*MUTATIONS, sep="\n")
        return 0
    if options.kept and not options.mutation:
        parser.error("--kept needs --mutation loop-NAME")
    say(f"seed {options.seed}")
    # So that everything that was started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        report = _run(options)
    except (CampaignError, TimeoutError) as error:
        print(f"faults: {told(error)}", file=sys.stderr)
        return 2
    print_report(report, as_json=options.json)
    return 0


def _run(options: argparse.Namespace) -> dict[str, Any]:
    more: dict[str, Any] = {"keep": options.keep}
    if options.kept:
        more["kept"] = True
    if options.full_disks:
        more["faults"] = ("full_disk",) * options.full_disks
    return run(
        options.engine,
        options.jobs,
        options.kills,
        options.workers,
        options.slots,
        options.seed,
        options.mutation,
        **more,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dev.py faults", description="Kills real processes under load and audits what is left."
    )
    parser.add_argument("--engine", choices=ENGINES, default="sql")
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--slots", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
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
    return parser


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())

"""Cut the power under the real writers, many times, and look for promises that are gone.

python3 dev.py powercut --cuts 1000 --json

A run records what two processes write and sync (powercut.c). Its log is then followed act by act;
at each cut a folder is laid as the disk could hold it (powercut_disk.py), opened by SQLite, and
compared with what had been promised at that moment (powercut_writer.py).
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from campaigns.faults.powercut_disk import Disk, Kind, Record, parse
from campaigns.faults.powercut_recorder import PowercutError, build, record
from campaigns.faults.powercut_writer import (
    CLAIMED,
    ERASED,
    ERASING,
    FINISHED,
    MUTATIONS,
    SUBMITTED,
    answer_of,
)
from campaigns.house import print_report
from ragqueue.records.sqlite import sqlite_module

CUTS_A_RUN = 250
DATABASE = "records.sqlite3"

_STAGES = f"""
select
    j.id,
    case
        when j.state = 'succeeded' then {FINISHED}
        when j.attempt > 0 then {CLAIMED}
        else {SUBMITTED}
    end,
    a.body
from jobs j left join answers a on a.tenant = j.tenant and a.job_id = j.id"""
# Successes without an answer and answers without one, answers without a job, logs with a gap.
_HALVES = """
select
    (
        select count(*) from jobs j
        where (j.state = 'succeeded') <> exists (select 1 from answers a where a.job_id = j.id)
    )
    + (select count(*) from answers where job_id not in (select id from jobs))
    + (
        select count(*) from (
            select 1 from events group by job_id having max(seq) - min(seq) + 1 <> count(*)
        )
    )"""
_IS_MIGRATED = "select count(*) from sqlite_master where name = 'events'"


def run(cuts: int, mutation: str | None = None, *, seed: int = 1) -> dict[str, Any]:
    """Cut the power `cuts` times; return `cuts, acked, lost, corrupt` and how it went.

    Raises PowercutError.
    """
    began = time.monotonic()
    totals = Counter[str]()
    runs = 0
    with tempfile.TemporaryDirectory(prefix="powercut-", dir=_memory()) as scratch:
        library = build(Path(scratch))
        while totals["cuts"] < cuts:
            rng = random.Random(f"{seed}/{runs}")
            folder = Path(scratch, f"run{runs}")
            log = record(folder, library, rng, mutation)
            cuts_now = min(CUTS_A_RUN, cuts - totals["cuts"])
            totals.update(replay(log, folder / "cut", rng, cuts_now))
            shutil.rmtree(folder)
            runs += 1
    keys = ("cuts", "acked", "lost", "corrupt", "syncs", "checkpoints")
    report: dict[str, Any] = {key: totals[key] for key in keys}
    report["runs"] = runs
    report["seconds"] = round(time.monotonic() - began, 1)
    report["seed"] = seed
    return report


def replay(log: bytes, scratch: Path, rng: random.Random, cuts: int) -> Counter[str]:
    """Follow a log once and cut it at `cuts` places; return what was counted."""
    records = list(parse(log))
    cuts_at = Counter(_places(records, rng, cuts))
    disk = Disk()
    promised: dict[str, int] = {}  # job -> the stage that it was promised last
    counts = Counter[str]()
    for number, act in enumerate(records):
        if act.kind == Kind.PROMISE:
            promised[act.name] = act.offset
        else:
            disk.follow(act)
        _count(act, disk, counts)
        for _ in range(cuts_at[number]):
            _lay(scratch, disk.after_cut(rng))
            counts["cuts"] += 1
            counts.update(examine(scratch / DATABASE, promised))
    return counts


def _places(records: list[Record], rng: random.Random, cuts: int) -> list[int]:
    """Choose where to cut.

    Anywhere, and as often right after a promise or inside a sync, where a mistake would show.
    """
    kinds = (Kind.PROMISE, Kind.SYNC_BEGIN, Kind.SYNC_END)
    sharp = [number for number, act in enumerate(records) if act.kind in kinds]
    places = []
    for _ in range(cuts):
        if rng.random() < 0.5:
            places.append(rng.choice(sharp))
        else:
            places.append(rng.randrange(len(records)))
    return places


def _count(act: Record, disk: Disk, counts: Counter[str]) -> None:
    if act.kind == Kind.PROMISE and act.offset != ERASING:
        counts["acked"] += 1
    if act.kind == Kind.SYNC_END:
        counts["syncs"] += 1
        if act.file == disk.inode(DATABASE):
            counts["checkpoints"] += 1


def _lay(folder: Path, files: dict[str, bytes]) -> None:
    """Put these files into the folder, and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        Path(folder, name).write_bytes(content)


def examine(database: Path, promised: dict[str, int]) -> dict[str, int]:
    """Open what a cut left, and count promises that are gone and databases that are broken."""
    connection = sqlite_module.connect(str(database))
    try:
        connection.execute("PRAGMA synchronous=OFF")
        healthy = connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if connection.execute(_IS_MIGRATED).fetchone() == (0,):  # before its first migration
            return {"lost": sum(promised.values()), "corrupt": int(not healthy)}
        stages = {job_id: (stage, body) for job_id, stage, body in connection.execute(_STAGES)}
        whole = connection.execute(_HALVES).fetchone() == (0,)
    except sqlite_module.DatabaseError:
        return {"lost": 0, "corrupt": 1}
    finally:
        connection.close()
    lost = 0
    for job_id, promise in promised.items():
        stage, body = stages.get(job_id, (0, None))
        lost += _gone(job_id, promise, stage, body)
    return {"lost": lost, "corrupt": int(not (healthy and whole))}


def _gone(job_id: str, promised: int, stage: int, body: str | None) -> int:
    """Return how many of the promises to one job are gone."""
    if promised == ERASED:
        return int(stage > 0)
    if promised == ERASING and stage == 0:
        return 0
    if stage == FINISHED and not _is_answer_of(job_id, body):
        stage = CLAIMED
    return max(0, min(promised, FINISHED) - stage)


def _is_answer_of(job_id: str, body: str | None) -> bool:
    if body is None:
        return False
    try:
        return bool(json.loads(body) == answer_of(job_id))
    except ValueError:  # torn: `integrity_check` looks at pages, not at what text a page holds
        return False


def _memory() -> str | None:
    """Return a folder in memory, None where there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main() -> int:
    """Run the campaign and print what it found."""
    parser = argparse.ArgumentParser(
        prog="dev.py powercut", description="Cuts the power under the real writers."
    )
    parser.add_argument("--cuts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutation", choices=MUTATIONS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        report = run(options.cuts, options.mutation, seed=options.seed)
    except PowercutError as error:
        print(f"powercut: {error}", file=sys.stderr)
        return 2
    print_report(report, as_json=options.json, width=12)
    harmed = report["lost"] or report["corrupt"]
    return 1 if harmed and not options.mutation else 0


if __name__ == "__main__":
    sys.exit(main())

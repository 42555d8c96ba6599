"""Cut the power under the real writers, many times, and look for promises that are gone: `python3 dev.py powercut --cuts 1000 --json`.

A run records what two processes write and sync (powercut.c). Its log is then followed act by act; at each cut a folder is laid as the disk
could hold it (powercut_disk.py), opened by SQLite, and compared with what had been promised at that moment (powercut_writer.py).
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from campaigns.faults.powercut_disk import Disk, Kind, Record, parse
from campaigns.faults.powercut_writer import (
    CLAIMED,
    ERASED,
    ERASING,
    FINISHED,
    MUTATIONS,
    answer_of,
)
from ragqueue.records.store import sqlite_module

CUTS_A_RUN = 250
JOBS = 80  # of each process of a run: about 550 promises, and a database small enough to check in milliseconds
PROCESSES = 2
LIMIT = 120  # seconds for a run

_STAGES = """
select j.id, case when j.state = 'succeeded' then 3 when j.attempt > 0 then 2 else 1 end, a.body
from jobs j left join answers a on a.tenant = j.tenant and a.job_id = j.id"""
_HALVES = """
select (select count(*) from jobs j where (j.state = 'succeeded') <> exists (select 1 from answers a where a.job_id = j.id))
     + (select count(*) from answers where job_id not in (select id from jobs))
     + (select count(*) from (select 1 from events group by job_id having max(seq) - min(seq) + 1 <> count(*)))"""


class PowercutError(Exception):
    """The simulator itself cannot work here, or missed something."""


def run(cuts: int, mutation: str | None = None, *, seed: int = 1) -> dict[str, Any]:
    """Cut the power `cuts` times; return `cuts, acked, lost, corrupt` and how it went. Raises PowercutError."""
    began, total, runs = time.monotonic(), Counter[str](), 0
    with tempfile.TemporaryDirectory(prefix="powercut-", dir=_memory()) as scratch:
        library = build(Path(scratch))
        while total["cuts"] < cuts:
            rng = random.Random(f"{seed}/{runs}")
            folder = Path(scratch, f"run{runs}")
            log = record(folder, library, rng, mutation)
            total.update(replay(log, folder / "cut", rng, min(CUTS_A_RUN, cuts - total["cuts"])))
            shutil.rmtree(folder)
            runs += 1
    keys = ("cuts", "acked", "lost", "corrupt", "syncs", "checkpoints")
    return {key: total[key] for key in keys} | {
        "runs": runs,
        "seconds": round(time.monotonic() - began, 1),
        "seed": seed,
    }


def build(folder: Path) -> Path:
    """Compile the recorder. Raises PowercutError without a compiler, or outside Linux."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if sys.platform != "linux":
        raise PowercutError(
            "power cuts are simulated on Linux only: the recorder is loaded with LD_PRELOAD"
        )
    if compiler is None:
        raise PowercutError(
            "no C compiler is found for the recorder: apt-get install gcc libc6-dev"
        )
    library = folder / "powercut.so"
    source = Path(__file__).with_suffix(".c")
    done = subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"],
        capture_output=True,
        encoding="utf-8",
    )
    if done.returncode:
        raise PowercutError(f"the recorder cannot be compiled: {done.stderr.strip()}")
    return library


def record(folder: Path, library: Path, rng: random.Random, mutation: str | None) -> bytes:
    """Let the writers work to their end and return what they did. Raises PowercutError when the record is not complete."""
    data = (folder / "data").resolve()
    data.mkdir(parents=True)
    log = folder / "log"
    log.touch()
    env = os.environ | {
        "LD_PRELOAD": str(library),
        "POWERCUT_FOLDER": str(data),
        "POWERCUT_LOG": str(log),
    }
    close = ["--close"] if rng.random() < 0.5 else []
    mutated = ["--mutation", mutation] if mutation else []
    writers = []
    for n in range(PROCESSES):
        options = ["--jobs", str(JOBS), "--seed", str(rng.randrange(2**32)), *close, *mutated]
        command = [
            sys.executable,
            "-m",
            "campaigns.faults.powercut_writer",
            str(data),
            f"w{n}",
            *options,
        ]
        writers.append(subprocess.Popen(command, env=env, cwd=Path(__file__).parents[2]))
    try:
        statuses = [writer.wait(LIMIT) for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
    if any(statuses):
        raise PowercutError(f"a writer failed: exit {statuses}")
    _compare(data, log.read_bytes())
    return log.read_bytes()


def replay(log: bytes, scratch: Path, rng: random.Random, cuts: int) -> Counter[str]:
    """Follow a log once and cut it at `cuts` places; return what was counted."""
    records = list(parse(log))
    places = Counter(_places(records, rng, cuts))
    disk, promised, counted = Disk(), dict[str, int](), Counter[str]()
    for number, act in enumerate(records):
        _count(act, promised, counted, disk)
        for _ in range(places[number]):
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            for name, content in disk.after_cut(rng).items():
                Path(scratch, name).write_bytes(content)
            counted["cuts"] += 1
            counted.update(examine(scratch / "records.sqlite3", promised))
    return counted


def examine(database: Path, promised: dict[str, int]) -> dict[str, int]:
    """Open what a cut left, and count promises that are gone and databases that are broken."""
    connection = sqlite_module.connect(str(database))
    try:
        connection.execute("PRAGMA synchronous=OFF")
        healthy = connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if connection.execute(
            "select count(*) from sqlite_master where name = 'events'"
        ).fetchone() == (0,):  # before its first migration
            return {"lost": sum(promised.values()), "corrupt": not healthy}
        found = {job_id: (stage, body) for job_id, stage, body in connection.execute(_STAGES)}
        whole = connection.execute(_HALVES).fetchone() == (0,)
        return {
            "lost": sum(
                _gone(job_id, stage, *found.get(job_id, (0, None)))
                for job_id, stage in promised.items()
            ),
            "corrupt": not (healthy and whole),
        }
    except sqlite_module.DatabaseError:
        return {"lost": 0, "corrupt": 1}
    finally:
        connection.close()


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
    try:
        return body is not None and json.loads(body) == answer_of(job_id)
    except ValueError:  # torn: `integrity_check` looks at pages, not at what text a page holds
        return False


def _count(act: Record, promised: dict[str, int], counted: Counter[str], disk: Disk) -> None:
    if act.kind == Kind.PROMISE:
        promised[act.name] = act.offset
        counted["acked"] += act.offset != ERASING
        return
    disk.follow(act)
    counted["syncs"] += act.kind == Kind.SYNC_END
    counted["checkpoints"] += act.kind == Kind.SYNC_END and act.file == disk.inode(
        "records.sqlite3"
    )


def _places(records: list[Record], rng: random.Random, cuts: int) -> list[int]:
    """Choose where to cut: anywhere, and as often right after a promise or inside a sync, where a mistake would show."""
    sharp = [
        number
        for number, act in enumerate(records)
        if act.kind in (Kind.PROMISE, Kind.SYNC_BEGIN, Kind.SYNC_END)
    ]
    return [
        rng.choice(sharp) if rng.random() < 0.5 else rng.randrange(len(records))
        for _ in range(cuts)
    ]


def _compare(data: Path, log: bytes) -> None:
    """Check that the log tells everything that reached the files."""
    disk = Disk()
    for act in parse(log):
        if act.kind != Kind.PROMISE:
            disk.follow(act)
    real = {
        path.name: path.read_bytes() for path in data.iterdir() if not path.name.endswith("-shm")
    }
    recorded = disk.whole()
    if different := sorted(
        name for name in real.keys() | recorded.keys() if real.get(name) != recorded.get(name)
    ):
        raise PowercutError(
            f"the recorder missed writes to {different}: this libc or SQLite writes in a way that powercut.c does not see"
        )


def _memory() -> str | None:
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
    said = parser.parse_args()
    try:
        found = run(said.cuts, said.mutation, seed=said.seed)
    except PowercutError as error:
        print(f"powercut: {error}", file=sys.stderr)
        return 2
    print(
        json.dumps(found)
        if said.json
        else "\n".join(f"{name:12} {value}" for name, value in found.items())
    )
    return 0 if said.mutation or not (found["lost"] or found["corrupt"]) else 1


if __name__ == "__main__":
    sys.exit(main())

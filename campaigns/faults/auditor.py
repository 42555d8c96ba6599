"""Find broken promises after a run, in the evidence that it left (evidence.py)."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from campaigns.faults.evidence import (
    DAMAGE,
    GONE,
    Entry,
    Finding,
    Move,
    Row,
    Store,
    attempt_of,
    readable,
)
from campaigns.faults.testimony import Testimony
from ragqueue.events.base import END, FENCE
from ragqueue.types import ENDED


def audit(
    store: Store,
    log: Iterable[Entry],
    transcript: Iterable[Mapping[str, Any]],
    *,
    moves: Iterable[Move] = (),
    may_restart: bool = True,
) -> list[Finding]:
    """Return every broken promise.

    `moves` (the history of the rows, where it was kept) shows two finals that left one row. Where
    the log cannot be lost and the model continues, no stream may restart: say so with
    `may_restart=False`.
    """
    testimony = Testimony(may_restart=may_restart)
    of_clients = [finding for fact in transcript for finding in testimony.take(fact)]
    return [
        *_audit_rows(store, testimony.jobs),
        *_audit_answers(store),
        *_audit_moves(moves),
        *_audit_log(store, log),
        *of_clients,
        *testimony.audit(store),
    ]


def count(findings: Iterable[Finding]) -> dict[str, int]:
    """Return to how many jobs each kind of damage happened."""
    damaged = {(finding.kind, finding.job_id) for finding in findings}
    counts = Counter(kind for kind, _ in damaged)
    return {kind: counts[kind] for kind in DAMAGE}


def _audit_rows(store: Store, job_ids: Iterable[str]) -> Iterator[Finding]:
    for job_id in sorted(job_ids):
        row = store.rows.get(job_id)
        if row is None:
            yield Finding("lost", job_id, "it was acknowledged and is not in the store")
        elif row.state not in ENDED:
            yield Finding("lost", job_id, f"it never ended: {row.state} in attempt {row.attempt}")
        elif row.state == "succeeded" and job_id not in store.answers:
            yield Finding("lost", job_id, "it succeeded without an answer")
        elif row.state != "succeeded" and (row.ended_at or 0.0) < row.deadline_at:
            detail = f"it ended {row.state} ({row.error_code}) before its deadline"
            yield Finding("wrongly_dead", job_id, detail)


def _audit_answers(store: Store) -> Iterator[Finding]:
    for job_id, answers in store.answers.items():
        attempts = [attempt for attempt, _ in answers]
        if len(attempts) > 1:
            yield Finding("doubled_answers", job_id, f"answers of attempts {attempts} are stored")
        row = store.rows.get(job_id)
        if row is None or row.state != "succeeded":  # a run that was buried keeps what it had
            continue
        for attempt in attempts:
            if attempt != row.attempt:
                detail = f"attempt {attempt} stored an answer, the job is in attempt {row.attempt}"
                yield Finding("zombie_writes", job_id, detail)


def _audit_moves(moves: Iterable[Move]) -> Iterator[Finding]:
    ends: dict[str, str] = {}  # job -> the state it ended in
    for move in moves:
        end = ends.get(move.job_id)
        if end is not None:
            detail = f"it ended {end} and then became {move.state} (attempt {move.attempt})"
            yield Finding("doubled_answers", move.job_id, detail)
        if move.state in ENDED:
            ends[move.job_id] = move.state


def _audit_log(store: Store, log: Iterable[Entry]) -> Iterator[Finding]:
    tops: dict[str, int] = {}  # job -> the highest seq of its log
    closed: set[str] = set()  # jobs whose log has its end
    for entry in log:
        job_id = entry.job_id
        if entry.type == GONE:
            tops.pop(job_id, None)
            closed.discard(job_id)
            continue
        top = tops.get(job_id, -1)
        detail = _fault_of(entry, top, store.rows.get(job_id), closed=job_id in closed)
        if detail:
            yield Finding("zombie_writes", job_id, f"entry {readable(entry.seq)} {detail}")
        tops[job_id] = max(top, entry.seq)
        if entry.type == END:
            closed.add(job_id)


def _fault_of(entry: Entry, top: int, row: Row | None, *, closed: bool) -> str:
    """Return what is wrong with an entry after `top` and, perhaps, the end; "" for nothing."""
    if entry.seq <= top:
        return f"was written after {readable(top)}"
    if entry.type == FENCE:
        return ""
    if closed:
        return f"({entry.type}) was written after the end"
    if row is not None and attempt_of(entry.seq) > row.attempt:
        return "is of an attempt that nobody claimed"
    return ""

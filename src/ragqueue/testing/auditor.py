"""Find broken promises after a run, in what the store holds, what the log was given and what clients saw.

A transcript is one JSON object a line, in the order of one client's life: `what`, `job`, `reader`, `at` (seconds), and
  acked   the job was accepted (202, or the first frame of a stream)
  opened  a connection for events: `last`, the id sent with it (null: none)
  frame   one event: `seq`, `type`, `data`
  closed  the end of a connection: `how`
  seen    one look at the job: `status`, `text` of its answer (null: none)
Of `data`, `delta` and `response.answer.text` are read. Log entries come in the order in which they were written; an entry of
type `GONE` says that the job's log was erased.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragqueue.events.pen import END, FENCE
from ragqueue.jobs.views import DELTA, RESTARTED
from ragqueue.records.store import sqlite_module
from ragqueue.types import ATTEMPT_SHIFT, ENDED

GONE = "gone"
STATUSES = {"completed": "succeeded", "incomplete": "succeeded", "failed": "failed", "cancelled": "cancelled"}
TERMINAL = frozenset(f"response.{status}" for status in STATUSES)
DAMAGE = ("lost", "doubled_answers", "stream_gaps", "stream_doubles", "zombie_writes", "wrongly_dead")


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise."""

    kind: str  # one of DAMAGE
    job_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class Row:
    """What the records say of a job."""

    state: str
    attempt: int
    deadline_at: float
    ended_at: float | None = None
    error_code: str | None = None


@dataclass(frozen=True, slots=True)
class Store:
    """The truth at the end: rows by job, and (attempt, text) of every stored answer."""

    rows: Mapping[str, Row]
    answers: Mapping[str, Sequence[tuple[int, str]]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One write to the log."""

    job_id: str
    seq: int
    type: str


@dataclass(frozen=True, slots=True)
class Move:
    """One change of a row's state."""

    job_id: str
    state: str
    attempt: int


def read_store(path: Path) -> Store:
    """Return the chat jobs and answers of a database file, which is opened read-only."""
    connection = sqlite_module.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        query = "select id, state, attempt, deadline_at, ended_at, error_code from jobs where kind = 'chat'"
        rows = {job_id: Row(*values) for job_id, *values in connection.execute(query)}
        answers: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for job_id, attempt, body in connection.execute("select job_id, attempt, body from answers order by attempt"):
            answers[job_id].append((attempt, json.loads(body)["text"]))
    finally:
        connection.close()
    return Store(rows, answers)


def audit(
    store: Store,
    log: Iterable[Entry],
    transcript: Iterable[Mapping[str, Any]],
    *,
    moves: Iterable[Move] = (),
    may_restart: bool = True,
) -> list[Finding]:
    """Return every broken promise; `moves` (the history of the rows, where it was kept) shows two finals that left one row.

    Where the log cannot be lost and the model continues, no stream may restart: say so with `may_restart=False`.
    """
    clients = Clients(transcript, may_restart=may_restart)
    store_side = (*_audit_rows(store, clients.jobs), *_audit_answers(store), *_audit_moves(moves), *_audit_log(store, log))
    return [*store_side, *clients.findings, *clients.audit(store)]


def count(findings: Iterable[Finding]) -> dict[str, int]:
    """Return to how many jobs each kind of damage happened."""
    counted = Counter(kind for kind, _ in {(finding.kind, finding.job_id) for finding in findings})
    return {kind: counted[kind] for kind in DAMAGE}


def _audit_rows(store: Store, asked: Iterable[str]) -> Iterator[Finding]:
    for job_id in sorted(asked):
        row = store.rows.get(job_id)
        if row is None:
            yield Finding("lost", job_id, "it was acknowledged and is not in the store")
        elif row.state not in ENDED:
            yield Finding("lost", job_id, f"it never ended: {row.state} in attempt {row.attempt}")
        elif row.state == "succeeded" and job_id not in store.answers:
            yield Finding("lost", job_id, "it succeeded without an answer")
        elif row.state != "succeeded" and (row.ended_at or 0.0) < row.deadline_at:
            yield Finding("wrongly_dead", job_id, f"it ended {row.state} ({row.error_code}) before its deadline")


def _audit_answers(store: Store) -> Iterator[Finding]:
    for job_id, answers in store.answers.items():
        if len(answers) > 1:
            yield Finding("doubled_answers", job_id, f"answers of attempts {[attempt for attempt, _ in answers]} are stored")
        row = store.rows.get(job_id)
        for attempt, _ in answers if row and row.state == "succeeded" else ():  # a run that was buried keeps what it had
            if row and attempt != row.attempt:
                yield Finding("zombie_writes", job_id, f"attempt {attempt} stored an answer, the job is in attempt {row.attempt}")


def _audit_moves(moves: Iterable[Move]) -> Iterator[Finding]:
    ended: dict[str, Move] = {}
    for move in moves:
        if (before := ended.get(move.job_id)) is not None:
            yield Finding("doubled_answers", move.job_id, f"it ended {before.state} and then became {move.state} (attempt {move.attempt})")
        if move.state in ENDED:
            ended[move.job_id] = move


def _audit_log(store: Store, log: Iterable[Entry]) -> Iterator[Finding]:
    tops: dict[str, int] = {}
    closed: set[str] = set()
    for entry in log:
        job_id, top, row = entry.job_id, tops.get(entry.job_id, -1), store.rows.get(entry.job_id)
        if entry.type == GONE:
            tops.pop(job_id, None)
            closed.discard(job_id)
            continue
        if entry.seq <= top:
            yield Finding("zombie_writes", job_id, f"entry {show(entry.seq)} was written after {show(top)}")
        elif entry.type != FENCE and job_id in closed:
            yield Finding("zombie_writes", job_id, f"entry {show(entry.seq)} ({entry.type}) was written after the end")
        elif entry.type != FENCE and row is not None and entry.seq >> ATTEMPT_SHIFT > row.attempt:
            yield Finding("zombie_writes", job_id, f"entry {show(entry.seq)} is of an attempt that nobody claimed")
        tops[job_id] = max(top, entry.seq)
        if entry.type == END:
            closed.add(job_id)


def show(seq: int) -> str:
    """Return a sequence number as people read it: attempt-n."""
    return f"{seq >> ATTEMPT_SHIFT}-{seq & ((1 << ATTEMPT_SHIFT) - 1)}"


@dataclass(slots=True)
class Reader:
    """What one reader was shown of one job, over all its connections."""

    text: str = ""
    last: int = -1
    attempt: int = 0  # the newest of which it was shown text
    ended: bool = False

    def take(self, seq: int, type_: str, delta: str) -> Iterator[tuple[str, str]]:
        """Take a frame in as a page would show it; yield what is wrong with it."""
        if self.ended:
            yield "stream_doubles", f"{type_} {show(seq)} came after the terminal event"
        if type_ == RESTARTED:
            self.text, self.last, self.attempt = "", -1, 0  # a lost log is told again from its start
            return
        if seq <= self.last:
            yield "stream_doubles", f"{type_} {show(seq)} came after {show(self.last)}"
        self.last = max(self.last, seq)
        self.ended = self.ended or type_ in TERMINAL
        if type_ == DELTA:
            if (attempt := seq >> ATTEMPT_SHIFT) < self.attempt:
                yield "zombie_writes", f"text of attempt {attempt} came after text of attempt {self.attempt}"
            self.attempt = max(attempt, self.attempt)
            self.text += delta


class Clients:
    """What all clients saw."""

    def __init__(self, transcript: Iterable[Mapping[str, Any]], *, may_restart: bool) -> None:
        self._may_restart = may_restart
        self.jobs: set[str] = set()  # acknowledged or followed
        self.readers: dict[tuple[str, str], Reader] = {}  # by (job, reader)
        self.ends: dict[str, set[tuple[str, str | None]]] = defaultdict(set)  # job -> (status, text) wherever a client was told its end
        self.findings: list[Finding] = []
        for fact in transcript:
            self._take(fact["what"], fact["job"], fact)

    def _take(self, what: str, job_id: str, fact: Mapping[str, Any]) -> None:
        if what != "seen":
            self.jobs.add(job_id)
        elif fact["status"] in STATUSES:
            self.ends[job_id].add((fact["status"], fact["text"]))
        elif self.ends[job_id]:
            self.findings.append(Finding("doubled_answers", job_id, f"it was {fact['status']} after it had ended"))
        if what == "opened":
            self.readers.setdefault((job_id, fact["reader"]), Reader())
        elif what == "frame":
            self._frame(job_id, self.readers.setdefault((job_id, fact["reader"]), Reader()), fact["seq"], fact["type"], fact["data"])

    def _frame(self, job_id: str, reader: Reader, seq: int, type_: str, data: Mapping[str, Any]) -> None:
        self.findings += [Finding(kind, job_id, detail) for kind, detail in reader.take(seq, type_, data.get("delta", ""))]
        if type_ == RESTARTED and not self._may_restart:
            self.findings.append(Finding("stream_gaps", job_id, f"a reader was told at {show(seq)} to drop what it had been shown"))
        if type_ in TERMINAL:
            answer = data["response"]["answer"]
            self.ends[job_id].add((type_.removeprefix("response."), None if answer is None else answer["text"]))

    def audit(self, store: Store) -> Iterator[Finding]:
        """Yield what the clients were told that the store does not say."""
        for (job_id, _), reader in self.readers.items():
            if not reader.ended:
                yield Finding("lost", job_id, "a reader never saw a terminal event")
            else:
                yield from _audit_text(job_id, reader.text, store)
        for job_id in sorted(self.jobs):
            if not self.ends[job_id]:
                yield Finding("lost", job_id, "no client was told its end")
            elif len(self.ends[job_id]) > 1:
                yield Finding("doubled_answers", job_id, f"clients were told {len(self.ends[job_id])} different ends")
            row, texts = store.rows.get(job_id), {text for _, text in store.answers.get(job_id, ())} | {None}
            for status, text in self.ends[job_id] if row else ():
                if row is not None and (STATUSES[status] != row.state or text not in texts):
                    yield Finding("doubled_answers", job_id, f"a client was told {status}, the store says {row.state}, or another text")


def _audit_text(job_id: str, shown: str, store: Store) -> Iterator[Finding]:
    row, texts = store.rows.get(job_id), [text for _, text in store.answers.get(job_id, ())]
    if row is not None and row.state == "succeeded" and texts and shown not in texts:
        missing, extra = difference(texts[-1], shown)
        if missing:
            yield Finding("stream_gaps", job_id, f"a reader missed {missing!r}")
        if extra:
            yield Finding("stream_doubles", job_id, f"a reader was shown {extra!r} too much")


def difference(wanted: str, got: str) -> tuple[str, str]:
    """Return what `got` lacks and what it has too much, between their common beginning and end."""
    start = _shared(wanted, got)
    wanted, got = wanted[start:], got[start:]
    end = _shared(wanted[::-1], got[::-1])
    return wanted[: len(wanted) - end], got[: len(got) - end]


def _shared(one: str, other: str) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))

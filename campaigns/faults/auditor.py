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
from typing import Any, NamedTuple

from ragqueue.events.base import END, FENCE
from ragqueue.jobs.stream import DELTA, RESTARTED
from ragqueue.records.store import sqlite_module
from ragqueue.types import ATTEMPT_SHIFT, ENDED

GONE = "gone"
STATUSES = {
    "completed": "succeeded",
    "incomplete": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}
TERMINAL = frozenset(f"response.{status}" for status in STATUSES)
DAMAGE = (
    "lost",
    "doubled_answers",
    "stream_gaps",
    "stream_doubles",
    "zombie_writes",
    "wrongly_dead",
)


class Finding(NamedTuple):
    """One broken promise."""

    kind: str  # one of DAMAGE
    job_id: str
    detail: str


class Row(NamedTuple):
    """What the records say of a job."""

    state: str
    attempt: int
    deadline_at: float
    ended_at: float | None = None
    error_code: str | None = None


class Store(NamedTuple):
    """The truth at the end: rows by job, and (attempt, text) of every stored answer."""

    rows: Mapping[str, Row]
    answers: Mapping[str, Sequence[tuple[int, str]]]


class Entry(NamedTuple):
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
        for job_id, attempt, body in connection.execute(
            "select job_id, attempt, body from answers order by attempt"
        ):
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
    clients = Clients(may_restart=may_restart)
    told = [finding for fact in transcript for finding in clients.take(fact)]
    return [
        *_audit_rows(store, clients.jobs),
        *_audit_answers(store),
        *_audit_moves(moves),
        *_audit_log(store, log),
        *told,
        *clients.audit(store),
    ]


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
            yield Finding(
                "wrongly_dead",
                job_id,
                f"it ended {row.state} ({row.error_code}) before its deadline",
            )


def _audit_answers(store: Store) -> Iterator[Finding]:
    for job_id, answers in store.answers.items():
        attempts, row = [attempt for attempt, _ in answers], store.rows.get(job_id)
        if len(attempts) > 1:
            yield Finding("doubled_answers", job_id, f"answers of attempts {attempts} are stored")
        if row and row.state == "succeeded":  # a run that was buried keeps what it had
            for attempt in filter(row.attempt.__ne__, attempts):
                yield Finding(
                    "zombie_writes",
                    job_id,
                    f"attempt {attempt} stored an answer, the job is in attempt {row.attempt}",
                )


def _audit_moves(moves: Iterable[Move]) -> Iterator[Finding]:
    ended: dict[str, str] = {}  # job -> the state it ended in
    for move in moves:
        if move.job_id in ended:
            yield Finding(
                "doubled_answers",
                move.job_id,
                f"it ended {ended[move.job_id]} and then became {move.state} (attempt {move.attempt})",
            )
        if move.state in ENDED:
            ended[move.job_id] = move.state


def _audit_log(store: Store, log: Iterable[Entry]) -> Iterator[Finding]:
    tops: dict[str, int] = {}
    closed: set[str] = set()
    for job_id, seq, type_ in log:
        top, row = tops.get(job_id, -1), store.rows.get(job_id)
        if type_ == GONE:
            tops.pop(job_id, None)
            closed.discard(job_id)
            continue
        if seq <= top:
            yield Finding(
                "zombie_writes", job_id, f"entry {show(seq)} was written after {show(top)}"
            )
        elif type_ != FENCE and job_id in closed:
            yield Finding(
                "zombie_writes", job_id, f"entry {show(seq)} ({type_}) was written after the end"
            )
        elif type_ != FENCE and row is not None and seq >> ATTEMPT_SHIFT > row.attempt:
            yield Finding(
                "zombie_writes", job_id, f"entry {show(seq)} is of an attempt that nobody claimed"
            )
        tops[job_id] = max(top, seq)
        if type_ == END:
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
            self.text, self.last, self.attempt = (
                "",
                -1,
                0,
            )  # a lost log is told again from its start
            return
        if seq <= self.last:
            yield "stream_doubles", f"{type_} {show(seq)} came after {show(self.last)}"
        self.last, self.ended = max(self.last, seq), self.ended or type_ in TERMINAL
        if type_ == DELTA:
            if (attempt := seq >> ATTEMPT_SHIFT) < self.attempt:
                yield (
                    "zombie_writes",
                    f"text of attempt {attempt} came after text of attempt {self.attempt}",
                )
            self.attempt = max(attempt, self.attempt)
            self.text += delta


class Clients:
    """What all clients saw."""

    def __init__(self, *, may_restart: bool) -> None:
        self._may_restart = may_restart
        self.jobs: set[str] = set()  # acknowledged or followed
        self._readers: dict[tuple[str, str], Reader] = defaultdict(Reader)  # by (job, reader)
        self._ends: dict[str, set[tuple[str, str | None]]] = defaultdict(
            set
        )  # job -> (status, text) wherever a client was told its end

    def take(self, fact: Mapping[str, Any]) -> Iterator[Finding]:
        """Take a line of the transcript in; yield what is wrong with it."""
        what, job_id = fact["what"], fact["job"]
        if what != "seen":
            self.jobs.add(job_id)
        elif fact["status"] in STATUSES:
            self._ends[job_id].add((fact["status"], fact["text"]))
        elif self._ends[job_id]:
            yield Finding("doubled_answers", job_id, f"it was {fact['status']} after it had ended")
        if what in ("opened", "frame"):
            reader = self._readers[job_id, fact["reader"]]
        if what == "frame":
            seq, type_, data = fact["seq"], fact["type"], fact["data"]
            yield from (
                Finding(kind, job_id, detail)
                for kind, detail in reader.take(seq, type_, data.get("delta", ""))
            )
            if type_ == RESTARTED and not self._may_restart:
                yield Finding(
                    "stream_gaps",
                    job_id,
                    f"a reader was told at {show(seq)} to drop what it had been shown",
                )
            if type_ in TERMINAL:
                answer = data["response"]["answer"]
                self._ends[job_id].add(
                    (type_.removeprefix("response."), None if answer is None else answer["text"])
                )

    def audit(self, store: Store) -> Iterator[Finding]:
        """Yield what the clients were told that the store does not say."""
        for (job_id, _), reader in self._readers.items():
            row, texts = store.rows.get(job_id), [text for _, text in store.answers.get(job_id, ())]
            if not reader.ended:
                yield Finding("lost", job_id, "a reader never saw a terminal event")
            elif row and row.state == "succeeded" and texts and reader.text not in texts:
                missing, extra = difference(texts[-1], reader.text)
                if missing:
                    yield Finding("stream_gaps", job_id, f"a reader missed {missing!r}")
                if extra:
                    yield Finding(
                        "stream_doubles", job_id, f"a reader was shown {extra!r} too much"
                    )
        for job_id in sorted(self.jobs):
            yield from self._audit_ends(job_id, store)

    def _audit_ends(self, job_id: str, store: Store) -> Iterator[Finding]:
        ends, row, texts = (
            self._ends[job_id],
            store.rows.get(job_id),
            {None, *(text for _, text in store.answers.get(job_id, ()))},
        )
        if not ends:
            yield Finding("lost", job_id, "no client was told its end")
        elif len(ends) > 1:
            yield Finding(
                "doubled_answers", job_id, f"clients were told {len(ends)} different ends"
            )
        for status, text in ends:
            if row and (STATUSES[status] != row.state or text not in texts):
                yield Finding(
                    "doubled_answers",
                    job_id,
                    f"a client was told {status}, the store says {row.state}, or another text",
                )


def difference(wanted: str, got: str) -> tuple[str, str]:
    """Return what `got` lacks and what it has too much, between their common beginning and end."""
    start = _shared(wanted, got)
    end = _shared(wanted[start:][::-1], got[start:][::-1])
    return wanted[start : len(wanted) - end], got[start : len(got) - end]


def _shared(one: str, other: str) -> int:
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )

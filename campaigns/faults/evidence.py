"""What an audit is given: what the store holds, what the log was given, and what clients saw.

A transcript is one JSON object a line, in the order of one client's life: `what`, `job`, `reader`,
`at` (seconds), and
  acked   the job was accepted (202, or the first frame of a stream)
  opened  a connection for events: `last`, the id sent with it (null: none)
  frame   one event: `seq`, `type`, `data`
  closed  the end of a connection: `how`
  seen    one look at the job: `status`, `text` of its answer (null: none)
Of `data`, `delta` and `response.answer.text` are read.

Log entries come in the order in which they were written; an entry of type `GONE` says that the
job's log was erased.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from campaigns import database
from campaigns.database import Place
from ragqueue.types import ATTEMPT_SHIFT, LAST_N

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

_ROWS = """
select id, state, attempt, deadline_at, ended_at, error_code from jobs where kind = 'chat'"""
_ANSWERS = "select job_id, attempt, body from answers order by attempt"


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

    def texts(self, job_id: str) -> list[str]:
        """Return the texts of the answers to a job, oldest attempt first."""
        return [text for _, text in self.answers.get(job_id, ())]


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


def read_store(place: Place) -> Store:
    """Return the chat jobs and answers of a database."""
    rows = {job_id: Row(*values) for job_id, *values in database.rows(place, _ROWS)}
    answers: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for job_id, attempt, body in database.rows(place, _ANSWERS):
        answers[job_id].append((attempt, json.loads(body)["text"]))
    return Store(rows, answers)


def attempt_of(seq: int) -> int:
    """Return the attempt that a sequence number belongs to."""
    return seq >> ATTEMPT_SHIFT


def readable(seq: int) -> str:
    """Return a sequence number as people read it: attempt-n."""
    return f"{attempt_of(seq)}-{seq & LAST_N}"

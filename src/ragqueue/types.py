"""One record for each thing that travels between rooms.

Text offsets count code points; times are seconds since 1970 by the store's clock.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Kind = Literal["heading", "paragraph", "list", "table", "code", "quote"]  # of a block
ENDED: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})
LANES = ("chat", "background")  # the jobs of a lane share one queue and one concurrency limit
ATTEMPT_SHIFT, LAST_N = 20, 0xFFFFF  # a seq is (attempt, n), the last n of an attempt ends the job
CREATED_SEQ, QUEUED_SEQ = 0, 1


def lane_of(kind: str) -> str:
    """Return the lane that jobs of this kind wait in."""
    return "chat" if kind == "chat" else "background"


def seq_of(attempt: int, n: int) -> int:
    """Return the sequence number of the n-th entry of an attempt; no seq ever names two texts."""
    return attempt << ATTEMPT_SHIFT | n


class Record(msgspec.Struct, frozen=True, array_like=True):
    """What cannot be changed; in MessagePack and JSON it is an array of its fields, in order.

    Each is built by keyword alone: by position, two neighbours of one type are soon confused.
    """


class Job(Record, frozen=True, kw_only=True):
    """One unit of queued work, as its row in the records says."""

    tenant: str
    id: str
    kind: str
    lane: str
    state: State
    payload: Mapping[str, Any]
    attempt: int  # the fencing number of the current run; grows with each claim
    tries: int  # how often its work failed with an error
    deaths: int  # how often its process died
    run_at: float
    deadline_at: float
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    owner: str | None = None
    cancel_requested: bool = False
    result: Mapping[str, Any] | None = None
    error_code: str | None = None
    error_message: str | None = None
    retry_of: str | None = None
    read_at: float = 0.0  # when the row said so

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class Ring(Record, frozen=True, kw_only=True):
    """One ring of the doorbell: says that a job may be claimable; may be lost, late or doubled."""

    job_id: str
    lane: str
    database: str  # UUID of the database that holds the job
    stamp: float  # when it was rung; 0 for a ring at the front, which is no proof of overtaking
    front: bool = False


class Event(Record, frozen=True, kw_only=True):
    """One entry of a job's log."""

    seq: int
    type: str
    data: Mapping[str, Any]
    at: float = 0.0


class Append(Record, frozen=True, kw_only=True):
    """A wish to add events to a job's log, granted only where the log ends at `after`."""

    job_id: str
    after: int  # -1 accepts any end below the first event: this is how a claim raises its fence
    events: Sequence[Event]


class Block(Record, frozen=True, kw_only=True):
    """A piece of structure of a document: `canonical[start:end]`."""

    kind: Kind
    start: int
    end: int
    heading_path: tuple[str, ...] = ()
    page: int | None = None  # 1-based


class Parsed(Record, frozen=True, kw_only=True):
    """What a parser makes of a file: one canonical text and the blocks over it, in order."""

    text: str
    blocks: Sequence[Block]
    title: str = ""
    pages: int | None = None


class Row(Record, frozen=True, kw_only=True):
    """A passage as the parser's child cut it: where it stands, and its keyword tokens."""

    start: int
    end: int
    heading_path: tuple[str, ...]
    page: int | None
    tokens: str  # joined by spaces
    length: int  # how many


class Reading(Record, frozen=True, kw_only=True):
    """What a parser's child makes of a file: its text, the blocks over it, and its passages."""

    text: str
    blocks: Sequence[Block]
    title: str
    pages: int | None
    language: str  # ISO 639-1
    rows: Sequence[Row]


class Space(Record, frozen=True, kw_only=True):
    """What search and every index keep apart by construction."""

    tenant: str
    collection: str
    generation: str


class Passage(Record, frozen=True, kw_only=True):
    """A stretch of canonical text chosen by the chunker; `text == canonical[start:end]`."""

    text: str
    start: int
    end: int
    heading_path: tuple[str, ...] = ()
    page: int | None = None


class Document(Record, frozen=True, kw_only=True):
    """What a user gave: its source and the version that is current."""

    tenant: str
    id: str
    collection: str
    source: str
    media_type: str
    title: str
    version: int
    state: Literal["pending", "ready", "failed", "deleted"]
    sha256: str
    language: str
    chunks: int
    created_at: float
    updated_at: float
    error: str | None = None


class Chunk(Record, frozen=True, kw_only=True):
    """The passage that is indexed.

    Its number is its row in the records and its id in every index.
    """

    number: int
    document_id: str
    version: int
    start: int
    end: int
    text: str
    title: str = ""
    source: str = ""
    heading_path: tuple[str, ...] = ()
    page: int | None = None
    language: str = ""  # ISO 639-1, of the document


class Hit(Record, frozen=True, kw_only=True):
    """A chunk with its scores.

    `score` ranks within one answer, `cosine` and `keyword` are comparable across questions.
    """

    chunk: Chunk
    score: float
    cosine: float | None = None  # -1..1, None when no embedder is configured
    keyword: float = 0.0  # BM25 over its upper bound for the question, 0..1


class Citation(Record, frozen=True, kw_only=True):
    """A quote that stands byte for byte at `document.text[start:end]` of the version given."""

    n: int
    document_id: str
    version: int
    start: int
    end: int
    page: int | None
    quote: str
    supported: bool = True  # False: the passage exists but does not carry the claim


class Prompt(Record, frozen=True, kw_only=True):
    """Everything that a generator may use for one answer."""

    question: str
    hits: Sequence[Hit]
    system: str
    user: str  # numbered, fenced passages and the question, ready to send
    prefix: str = ""  # text that readers were already shown and that the answer must continue


class Delta(Record, frozen=True, kw_only=True):
    """A piece of an answer as it is generated; the last one carries the finish reason."""

    text: str = ""
    finish: str | None = None  # "stop", "length"; a stream without one is not complete
    usage: Mapping[str, int] = {}


class Outcome(Record, frozen=True, kw_only=True):
    """How a run ended: what `finish` writes."""

    state: State
    result: Mapping[str, Any] | None = None
    error_code: str | None = None
    error_message: str | None = None

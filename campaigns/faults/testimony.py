"""Judge a transcript: what each reader was shown, and what all clients were told of a job's end."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from campaigns.faults.evidence import STATUSES, TERMINAL, Finding, Store, attempt_of, readable
from ragqueue.jobs.stream import DELTA, RESTARTED


@dataclass(slots=True)
class Reader:
    """What one reader was shown of one job, over all its connections."""

    text: str = ""
    last: int = -1
    attempt: int = 0  # the newest of which it was shown text
    ended: bool = False

    def take(self, seq: int, type_: str, delta: str) -> Iterator[tuple[str, str]]:
        """Take a frame in as a page would show it; yield (kind, detail) of what is wrong."""
        if self.ended:
            yield "stream_doubles", f"{type_} {readable(seq)} came after the terminal event"
        if type_ == RESTARTED:
            self._restart()
            return
        if seq <= self.last:
            yield "stream_doubles", f"{type_} {readable(seq)} came after {readable(self.last)}"
        self.last = max(self.last, seq)
        if type_ in TERMINAL:
            self.ended = True
        if type_ == DELTA:
            attempt = attempt_of(seq)
            if attempt < self.attempt:
                detail = f"text of attempt {attempt} came after text of attempt {self.attempt}"
                yield "zombie_writes", detail
            self.attempt = max(attempt, self.attempt)
            self.text += delta

    def _restart(self) -> None:
        """Forget what was shown: a lost log is told again from its start."""
        self.text = ""
        self.last = -1
        self.attempt = 0


class Testimony:
    """What all clients saw."""

    def __init__(self, *, may_restart: bool) -> None:
        self._may_restart = may_restart
        self.jobs: set[str] = set()  # acknowledged or followed
        self._readers: dict[tuple[str, str], Reader] = defaultdict(Reader)  # by (job, reader)
        # job -> (status, text) wherever a client was told its end
        self._ends: dict[str, set[tuple[str, str | None]]] = defaultdict(set)

    def take(self, fact: Mapping[str, Any]) -> Iterator[Finding]:
        """Take a line of the transcript in; yield what is wrong with it."""
        if fact["what"] == "seen":
            yield from self._take_look(fact)
            return
        job_id = fact["job"]
        self.jobs.add(job_id)
        if fact["what"] not in ("opened", "frame"):
            return
        reader = self._readers[job_id, fact["reader"]]  # who opens a connection must see its end
        if fact["what"] == "frame":
            yield from self._take_frame(fact, reader)

    def _take_look(self, fact: Mapping[str, Any]) -> Iterator[Finding]:
        job_id = fact["job"]
        status = fact["status"]
        if status in STATUSES:
            self._ends[job_id].add((status, fact["text"]))
        elif self._ends[job_id]:
            yield Finding("doubled_answers", job_id, f"it was {status} after it had ended")

    def _take_frame(self, fact: Mapping[str, Any], reader: Reader) -> Iterator[Finding]:
        job_id = fact["job"]
        seq = fact["seq"]
        type_ = fact["type"]
        data = fact["data"]
        for kind, detail in reader.take(seq, type_, data.get("delta", "")):
            yield Finding(kind, job_id, detail)
        if type_ == RESTARTED and not self._may_restart:
            detail = f"a reader was told at {readable(seq)} to drop what it had been shown"
            yield Finding("stream_gaps", job_id, detail)
        if type_ in TERMINAL:
            answer = data["response"]["answer"]
            text = None if answer is None else answer["text"]
            self._ends[job_id].add((type_.removeprefix("response."), text))

    def audit(self, store: Store) -> Iterator[Finding]:
        """Yield what the clients were told that the store does not say."""
        for (job_id, _), reader in self._readers.items():
            yield from _audit_reader(job_id, reader, store)
        for job_id in sorted(self.jobs):
            yield from self._audit_ends(job_id, store)

    def _audit_ends(self, job_id: str, store: Store) -> Iterator[Finding]:
        ends = self._ends[job_id]
        if not ends:
            yield Finding("lost", job_id, "no client was told its end")
        elif len(ends) > 1:
            detail = f"clients were told {len(ends)} different ends"
            yield Finding("doubled_answers", job_id, detail)
        row = store.rows.get(job_id)
        if row is None:
            return
        texts = {None, *store.texts(job_id)}
        for status, text in ends:
            if STATUSES[status] != row.state or text not in texts:
                detail = f"a client was told {status}, the store says {row.state}, or another text"
                yield Finding("doubled_answers", job_id, detail)


def _audit_reader(job_id: str, reader: Reader, store: Store) -> Iterator[Finding]:
    if not reader.ended:
        yield Finding("lost", job_id, "a reader never saw a terminal event")
        return
    row = store.rows.get(job_id)
    texts = store.texts(job_id)
    if row is None or row.state != "succeeded" or not texts or reader.text in texts:
        return
    missing, extra = difference(texts[-1], reader.text)
    if missing:
        yield Finding("stream_gaps", job_id, f"a reader missed {missing!r}")
    if extra:
        yield Finding("stream_doubles", job_id, f"a reader was shown {extra!r} too much")


def difference(expected: str, actual: str) -> tuple[str, str]:
    """Return what `actual` lacks and what it has too much.

    Both stand between the common beginning and the common end of the two.
    """
    start = _common_beginning(expected, actual)
    expected = expected[start:]
    actual = actual[start:]
    end = _common_beginning(expected[::-1], actual[::-1])
    return expected[: len(expected) - end], actual[: len(actual) - end]


def _common_beginning(left: str, right: str) -> int:
    """Return how many characters two texts begin with alike."""
    alike = 0
    for left_character, right_character in zip(left, right, strict=False):
        if left_character != right_character:
            break
        alike += 1
    return alike

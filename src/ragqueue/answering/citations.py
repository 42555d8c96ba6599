"""Turn the [n] of an answer, as it streams, into quotes that stand in the documents."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ragqueue.language.detect import detect
from ragqueue.language.sentences import split
from ragqueue.language.tokens import tokenize
from ragqueue.types import Citation, Hit

LOOK_BACK = 2000  # characters before a marker that can belong to its claim
SENTENCE_SHARE = 0.4  # share of a claim's words that one sentence holds when it carries the claim ...
PASSAGE_SHARE = 0.6  # ... or that the whole passage does: a claim may sum up several sentences

_MARKER = re.compile(r"\[(\d{1,2}(?:, ?\d{1,2}){0,7})\]")
_BEGUN = re.compile(r"\[(?:\d{1,2}(?:, ?\d{1,2}){0,7}(?:, ?)?)?\Z")  # what the next delta may complete to a marker
_GROUPED = re.compile(r"(?<=\d)[,'\u202f\u00a0](?=\d{3}(?!\d))")  # 1,000 = 1000


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that can be shown, and the citations whose markers end it."""

    text: str
    citations: tuple[Citation, ...] = ()


class CitationScanner:
    """Reads an answer in pieces of any size; where it is split makes no difference to what is found."""

    def __init__(self, hits: Sequence[Hit]) -> None:
        self._passages = [_Passage(hit) for hit in hits]
        self._seen: list[str] = []  # all text before `_held`
        self._held = ""
        self._after = 0  # where the last marker ended, in the text seen
        self._claim = ""
        self.citations: list[Citation] = []
        self.invalid: list[int] = []  # numbers in the text that name no passage

    def feed(self, text: str) -> list[Piece]:
        """Return what can be shown now; a marker that is not complete is held back."""
        if not self._held and "[" not in text:
            self._seen.append(text)
            return [Piece(text)] if text else []
        return self._scan(self._held + text, last=False)

    def close(self) -> list[Piece]:
        """Return what was held back: call it when the answer has ended."""
        return self._scan(self._held, last=True)

    def _scan(self, text: str, *, last: bool) -> list[Piece]:
        begun = None if last else _BEGUN.search(text)
        ready = text[: begun.start()] if begun else text
        self._held = text[len(ready) :]
        pieces, at = [], 0
        for marker in _MARKER.finditer(ready):
            before = "".join(self._seen) + ready[at : marker.start()]
            self._seen = [before]
            citations = self._resolve(before, marker[1])
            self._seen.append(marker[0])
            pieces.append(Piece(ready[at : marker.end()], citations))
            at = marker.end()
        if rest := ready[at:]:
            self._seen.append(rest)
            pieces.append(Piece(rest))
        return pieces

    def _resolve(self, before: str, numbers: str) -> tuple[Citation, ...]:
        if before.endswith("\\") or _is_code(before):
            return ()
        claim = _claim(before[max(self._after, len(before) - LOOK_BACK) :]) or self._claim
        self._claim, self._after = claim, len(before) + len(numbers) + 2
        found = []
        for n in dict.fromkeys(map(int, re.findall(r"\d+", numbers))):
            if 1 <= n <= len(self._passages):
                found.append(self._passages[n - 1].cite(n, claim))
            else:
                self.invalid.append(n)
        self.citations += found
        return tuple(found)


def _claim(text: str) -> str:
    """Return the last sentence; the whole text when that has no words, and nothing when the text has none."""
    if not any(map(str.isalnum, text)):
        return ""
    start, end = split(text)[-1]
    return text[start:end] if tokenize(text[start:end], "en") else text


def _is_code(before: str) -> bool:
    """Tell whether a bracket after this text is the index of a name in code, as in `a[1]`."""
    if "`" not in before or not (before[-1].isalnum() or before[-1] in "_])"):
        return False
    line_start = before.rfind("\n") + 1
    fences = len(re.findall(r"^[ \t]*```", before[:line_start], re.MULTILINE))
    return bool(fences % 2) or before.count("`", line_start) % 2 == 1


class _Passage:
    """A hit's sentences with their words, worked out when it is first cited."""

    def __init__(self, hit: Hit) -> None:
        self._chunk = hit.chunk

    @cached_property
    def _language(self) -> str:
        return self._chunk.language or detect(self._chunk.text)

    @cached_property
    def _sentences(self) -> list[tuple[int, int, frozenset[str]]]:
        text = self._chunk.text
        return [(start, end, self._words(text[start:end])) for start, end in split(text)] or [(0, len(text), frozenset())]

    @cached_property
    def _all(self) -> frozenset[str]:
        chunk = self._chunk
        return self._words(" ".join((chunk.title, *chunk.heading_path))).union(*(words for _, _, words in self._sentences))

    def _words(self, text: str) -> frozenset[str]:
        return frozenset(tokenize(_GROUPED.sub("", text), self._language))

    def cite(self, n: int, claim: str) -> Citation:
        """Return a citation of the sentence that shares most words with the claim."""
        chunk, words = self._chunk, self._words(claim)
        shared = [len(words & held) for _, _, held in self._sentences]
        # Of two that share as much, the one that says less besides; then the first.
        best = max(range(len(shared)), key=lambda at: (shared[at], -len(self._sentences[at][2]), -at))
        start, end, _ = self._sentences[best]
        numbers = {word for word in words if any(map(str.isdigit, word))}
        carried = shared[best] >= SENTENCE_SHARE * len(words) or len(words & self._all) >= PASSAGE_SHARE * len(words)
        return Citation(
            n=n,
            document_id=chunk.document_id,
            version=chunk.version,
            start=chunk.start + start,
            end=chunk.start + end,
            page=chunk.page,
            quote=chunk.text[start:end],
            supported=bool(words) and carried and numbers <= self._all,
        )

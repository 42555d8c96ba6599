"""Turn the [n] of an answer, as it streams, into quotes that stand in the documents."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

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
        self._hits = hits
        self._passages: dict[int, _Passage] = {}  # those that were cited
        self._seen = self._held = self._claim = ""  # all text that was shown, then what is held back; the last claim
        self._after = 0  # where the last marker ended, in the text seen
        self.citations: list[Citation] = []
        self.invalid: list[int] = []  # numbers in the text that name no passage

    def feed(self, text: str) -> list[Piece]:
        """Return what can be shown now; a marker that is not complete is held back."""
        text = self._held + text
        begun = _BEGUN.search(text)
        self._held = text[begun.start() :] if begun else ""
        return self._scan(text[: len(text) - len(self._held)])

    def close(self) -> list[Piece]:
        """Return what was held back: call it when the answer has ended."""
        held, self._held = self._held, ""
        return self._scan(held)

    def _scan(self, text: str) -> list[Piece]:
        pieces, at = [], 0
        for marker in _MARKER.finditer(text):
            self._seen += text[at : marker.start()]
            pieces.append(Piece(text[at : marker.end()], self._resolve(marker[1])))
            self._seen += marker[0]
            at = marker.end()
        if rest := text[at:]:
            self._seen += rest
            pieces.append(Piece(rest))
        return pieces

    def _resolve(self, numbers: str) -> tuple[Citation, ...]:
        if self._seen.endswith("\\") or _is_code(self._seen):
            return ()
        self._claim = _claim(self._seen[max(self._after, len(self._seen) - LOOK_BACK) :]) or self._claim
        self._after = len(self._seen) + len(numbers) + 2
        found = []
        for n in dict.fromkeys(map(int, re.findall(r"\d+", numbers))):
            if 1 <= n <= len(self._hits):
                passage = self._passages.get(n) or self._passages.setdefault(n, _Passage(self._hits[n - 1]))
                found.append(passage.cite(n, self._claim))
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
    """A hit's sentences with their words."""

    def __init__(self, hit: Hit) -> None:
        self._chunk, text = hit.chunk, hit.chunk.text
        self._language = hit.chunk.language or detect(text)
        self._sentences = [(start, end, self._words(text[start:end])) for start, end in split(text) or [(0, len(text))]]
        about = self._words(" ".join((hit.chunk.title, *hit.chunk.heading_path)))
        self._all = about.union(*(words for _, _, words in self._sentences))

    def _words(self, text: str) -> frozenset[str]:
        return frozenset(tokenize(_GROUPED.sub("", text), self._language))

    def cite(self, n: int, claim: str) -> Citation:
        """Return a citation of the sentence that shares most words with the claim."""
        chunk, words = self._chunk, self._words(claim)
        # Of two that share as much, the one that says less besides; then the first.
        start, end, held = max(self._sentences, key=lambda sentence: (len(words & sentence[2]), -len(sentence[2])))
        numbers = {word for word in words if any(map(str.isdigit, word))}
        carried = len(words & held) >= SENTENCE_SHARE * len(words) or len(words & self._all) >= PASSAGE_SHARE * len(words)
        return Citation(
            n, chunk.document_id, chunk.version, chunk.start + start, chunk.start + end, chunk.page, quote=chunk.text[start:end],
            supported=bool(words) and carried and numbers <= self._all,
        )  # fmt: skip

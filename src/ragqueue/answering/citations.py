"""Turn the [n] of an answer, as it streams, into quotes that stand in the documents."""

import re
from collections.abc import Sequence
from functools import cache

from ragqueue.language.sentences import split
from ragqueue.language.tokens import detect, tokenize
from ragqueue.types import Chunk, Citation, Hit

SENTENCE_SHARE = 0.4  # share of a claim's words that one sentence holds when it carries the claim ...
PASSAGE_SHARE = 0.6  # ... or that the whole passage does: a claim may sum up several sentences
Piece = tuple[str, Sequence[Citation]]  # text that can be shown, and the citations whose markers end it
_MARKER = re.compile(r"\[(\d{1,2}(?:, ?\d{1,2}){0,7})\]")
_BEGUN = re.compile(r"\[(?:\d{1,2}(?:, ?\d{1,2}){0,7}(?:, ?)?)?\Z")  # what the next delta may complete to a marker
_GROUPED = re.compile(r"(?<=\d)[,'\u202f\u00a0](?=\d{3}(?!\d))")  # 1,000 = 1000


class CitationScanner:
    """Reads an answer in pieces of any size; where it is split makes no difference to what is found."""

    def __init__(self, hits: Sequence[Hit]) -> None:
        self._hits, self._read = hits, cache(_read)
        self._text = self._claim = ""
        self._shown = self._after = 0  # how far the text was shown, and where its last marker ended
        self.citations: list[Citation] = []
        self.invalid: list[int] = []  # numbers in the text that name no passage

    def feed(self, text: str, *, last: bool = False) -> list[Piece]:
        """Return what can be shown now; a marker that is not complete is held back, unless this is the last of the answer."""
        self._text += text
        begun = None if last else _BEGUN.search(self._text, self._shown)
        end = begun.start() if begun else len(self._text)
        pieces: list[Piece] = []
        for marker in _MARKER.finditer(self._text, self._shown, end):
            pieces.append((self._text[self._shown : marker.end()], self._resolve(marker)))
            self._shown = marker.end()
        if rest := self._text[self._shown : end]:
            pieces.append((rest, ()))
        self._shown = end
        return pieces

    def _resolve(self, marker: re.Match[str]) -> Sequence[Citation]:
        before, claim = self._text[: marker.start()], self._text[self._after : marker.start()]
        if before.endswith("\\") or _is_code(before):
            return ()
        self._after = marker.end()
        if any(map(str.isalnum, claim)):  # else the marker stands with the last one, and shares its claim
            sentence = claim[slice(*split(claim)[-1])]
            self._claim = sentence if tokenize(sentence, "en") else claim
        named = list(dict.fromkeys(map(int, re.findall(r"\d+", marker[1]))))
        found = [self._cite(n) for n in named if 1 <= n <= len(self._hits)]
        self.invalid += [n for n in named if not 1 <= n <= len(self._hits)]
        self.citations += found
        return found

    def _cite(self, n: int) -> Citation:
        """Return a citation of the sentence that shares most words with the claim."""
        chunk = self._hits[n - 1].chunk
        language, sentences, every = self._read(chunk)
        words = _words(self._claim, language)
        # Of two that share as much, the one that says less besides; then the first.
        start, end, held = max(sentences, key=lambda sentence: (len(words & sentence[2]), -len(sentence[2])))
        carried = len(words & held) >= SENTENCE_SHARE * len(words) or len(words & every) >= PASSAGE_SHARE * len(words)
        supported = bool(words) and carried and {word for word in words if any(map(str.isdigit, word))} <= every
        place = (chunk.document_id, chunk.version, chunk.start + start, chunk.start + end, chunk.page)
        return Citation(n, *place, quote=chunk.text[start:end], supported=supported)


def _is_code(before: str) -> bool:
    """Tell whether a bracket after this text is the index of a name in code, as in `a[1]`."""
    if "`" not in before or not (before[-1].isalnum() or before[-1] in "_])"):
        return False
    line_start = before.rfind("\n") + 1
    fences = len(re.findall(r"^[ \t]*```", before[:line_start], re.MULTILINE))
    return bool(fences % 2) or before.count("`", line_start) % 2 == 1


def _words(text: str, language: str) -> frozenset[str]:
    return frozenset(tokenize(_GROUPED.sub("", text), language))


def _read(chunk: Chunk) -> tuple[str, list[tuple[int, int, frozenset[str]]], frozenset[str]]:
    """Return a passage's language, its sentences with their words, and all of its words with those of its title."""
    language, text = chunk.language or detect(chunk.text), chunk.text
    sentences = [(start, end, _words(text[start:end], language)) for start, end in split(text) or [(0, len(text))]]
    about = _words(" ".join((chunk.title, *chunk.heading_path)), language)
    return language, sentences, about.union(*(words for _, _, words in sentences))

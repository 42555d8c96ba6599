"""Turn the [n] of an answer into citations: quotes that stand in the documents, at their offsets."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from ragqueue.language.detect import detect
from ragqueue.language.markup import is_code
from ragqueue.language.sentences import split
from ragqueue.language.tokens import tokenize
from ragqueue.types import Chunk, Citation, Hit

SENTENCE_SHARE = (
    0.4  # share of a claim's words that one sentence holds when it carries the claim ...
)
PASSAGE_SHARE = 0.6  # ... or that the whole passage does: a claim may sum up several sentences
_MARKER = re.compile(r"\[(\d{1,2}(?:, ?\d{1,2}){0,7})\]")
_BEGUN = re.compile(
    r"\[(?:\d{1,2}(?:, ?\d{1,2}){0,7}(?:, ?)?)?\Z"
)  # what the next delta may complete to a marker
_GROUPED = re.compile(r"(?<=\d)[,'\u202f\u00a0](?=\d{3}(?!\d))")  # 1,000 = 1000


class CitationScanner:
    """Turns the [n] of an answer into quotes as it streams, in pieces of any size; where it is split makes no difference to what is found."""

    def __init__(self, hits: Sequence[Hit]) -> None:
        self._hits = hits
        self._text = self._claim = self._sentence = (
            ""  # all so far; since the last marker; the last sentence of that
        )
        self._shown = self._after = 0  # how far the text was shown, and where its last marker ended
        self.citations: list[Citation] = []
        self.invalid: list[int] = []  # numbers in the text that name no passage

    def feed(self, text: str, *, last: bool = False) -> Iterator[tuple[str, Sequence[Citation]]]:
        """Yield what can be shown now, each piece with the citations of the marker that ends it; an incomplete marker waits, unless it is the last."""
        self._text += text
        begun = None if last else _BEGUN.search(self._text, self._shown)
        end = begun.start() if begun else len(self._text)
        for marker in _MARKER.finditer(self._text, self._shown, end):
            yield self._text[self._shown : marker.end()], self._resolve(marker)
            self._shown = marker.end()
        if rest := self._text[self._shown : end]:
            yield rest, ()
        self._shown = end

    def _resolve(self, marker: re.Match[str]) -> Sequence[Citation]:
        before, claim = self._text[: marker.start()], self._text[self._after : marker.start()]
        if before.endswith("\\") or is_code(before):
            return ()
        self._after = marker.end()
        if any(
            map(str.isalnum, claim)
        ):  # else the marker stands with the last one, and shares its claim
            self._claim, self._sentence = claim, claim[slice(*split(claim)[-1])]
        named = list(dict.fromkeys(map(int, re.findall(r"\d+", marker[1]))))
        found = [self._cite(n) for n in named if 1 <= n <= len(self._hits)]
        self.invalid += [n for n in named if not 1 <= n <= len(self._hits)]
        self.citations += found
        return found

    def _cite(self, n: int) -> Citation:
        """Return a citation of what the claim repeats word for word, else of the sentence that shares most words with it."""
        chunk = self._hits[n - 1].chunk
        language, sentences, every = _read(chunk)
        words = _words(self._sentence, language) or _words(self._claim, language)
        # Of two that share as much, the one that says less besides; then the first.
        start, end, held = max(
            sentences, key=lambda sentence: (len(words & sentence[2]), -len(sentence[2]))
        )
        carried = len(words & held) >= SENTENCE_SHARE * len(words) or len(
            words & every
        ) >= PASSAGE_SHARE * len(words)
        if whole := _verbatim(self._claim, chunk.text):
            (start, end), carried = whole, True
        supported = (
            bool(words)
            and carried
            and {word for word in words if any(map(str.isdigit, word))} <= every
        )
        place = (
            chunk.document_id,
            chunk.version,
            chunk.start + start,
            chunk.start + end,
            chunk.page,
        )
        return Citation(n, *place, quote=chunk.text[start:end], supported=supported)


def _verbatim(claim: str, text: str) -> tuple[int, int] | None:
    """Return where a claim of more than one sentence stands word for word in a passage, as a quoted list or code block does."""
    said = claim.replace("\\[", "[").strip()
    if len(split(said)) < 2:
        return None
    for quote in (
        said,
        said.rpartition("\n")[0].rstrip(),
    ):  # code that was cut off was given a fence to end with
        if quote and (at := text.find(quote)) >= 0:
            return at, at + len(quote)
    return None


def _words(text: str, language: str) -> frozenset[str]:
    return frozenset(tokenize(_GROUPED.sub("", text), language))


@lru_cache(500)  # passages: the good ones are found again and again
def _read(chunk: Chunk) -> tuple[str, list[tuple[int, int, frozenset[str]]], frozenset[str]]:
    """Return a passage's language, its sentences with their words, and all of its words with those of its title."""
    language, text = chunk.language or detect(chunk.text), chunk.text
    sentences = [
        (start, end, _words(text[start:end], language))
        for start, end in split(text) or [(0, len(text))]
    ]
    about = _words(" ".join((chunk.title, *chunk.heading_path)), language)
    return language, sentences, about.union(*(words for _, _, words in sentences))

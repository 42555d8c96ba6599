"""Turn the [n] of an answer into citations.

Those are quotes that stand in the documents, at their offsets.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from ragqueue.language.detect import detect
from ragqueue.language.markup import is_code
from ragqueue.language.sentences import split
from ragqueue.language.tokens import tokenize
from ragqueue.types import Chunk, Citation, Hit

# Share of a claim's words that one sentence holds when it carries the claim ...
SENTENCE_SHARE = 0.4
# ... or that the whole passage does: a claim may sum up several sentences.
PASSAGE_SHARE = 0.6
_MARKER = re.compile(r"\[(\d{1,2}(?:, ?\d{1,2}){0,7})\]")
# What the next delta may complete to a marker.
_BEGUN = re.compile(r"\[(?:\d{1,2}(?:, ?\d{1,2}){0,7}(?:, ?)?)?\Z")
_NUMBER = re.compile(r"\d+")
# 1,000 = 1000
_GROUPED = re.compile(r"(?<=\d)[,'\u202f\u00a0](?=\d{3}(?!\d))")


class _Sentence(NamedTuple):
    """A sentence of a passage: `text[start:end]`."""

    start: int
    end: int
    words: frozenset[str]


class _Passage(NamedTuple):
    """What a claim is compared with."""

    language: str
    sentences: Sequence[_Sentence]
    words: frozenset[str]  # also those of its title and headings


class CitationScanner:
    """Turns the [n] of an answer into quotes as it streams, in pieces of any size.

    Where it is split makes no difference to what is found.
    """

    def __init__(self, hits: Sequence[Hit]) -> None:
        self._hits = hits
        self._text = ""  # all that was fed
        self._start = 0  # where the text begins that was not yielded yet
        self._claim_start = 0  # where the last marker ended
        self._claim = ""  # what the last marker stands for
        self._sentence = ""  # the last sentence of the claim
        self.citations: list[Citation] = []
        self.invalid: list[int] = []  # numbers in the text that name no passage

    def feed(self, text: str, *, last: bool = False) -> Iterator[tuple[str, Sequence[Citation]]]:
        """Yield what can be shown, each piece with the citations of the marker that ends it.

        An incomplete marker waits, unless it is the last.
        """
        self._text += text
        begun = None if last else _BEGUN.search(self._text, self._start)
        end = begun.start() if begun else len(self._text)
        for marker in _MARKER.finditer(self._text, self._start, end):
            yield self._text[self._start : marker.end()], self._resolve(marker)
            self._start = marker.end()
        rest = self._text[self._start : end]
        if rest:
            yield rest, ()
        self._start = end

    def _resolve(self, marker: re.Match[str]) -> Sequence[Citation]:
        """Return the citations of a marker, none when it is escaped or stands in code."""
        before = self._text[: marker.start()]
        if before.endswith("\\") or is_code(before):
            return ()
        claim = self._text[self._claim_start : marker.start()]
        self._claim_start = marker.end()
        # Without a word between them, a marker shares the claim of the one before it.
        if any(map(str.isalnum, claim)):
            start, end = split(claim)[-1]
            self._claim = claim
            self._sentence = claim[start:end]
        numbers = [int(digits) for digits in _NUMBER.findall(marker[1])]
        citations = []
        for n in dict.fromkeys(numbers):
            if 1 <= n <= len(self._hits):
                citations.append(self._cite(n))
            else:
                self.invalid.append(n)
        self.citations += citations
        return citations

    def _cite(self, n: int) -> Citation:
        """Return a citation of what the claim repeats word for word.

        When it repeats nothing, cite the sentence that shares most words with it.
        """
        chunk = self._hits[n - 1].chunk
        passage = _read(chunk)
        words = _words(self._sentence, passage.language) or _words(self._claim, passage.language)
        repeated = _find_repeated(self._claim, chunk.text)
        if repeated is None:
            sentence = _nearest(passage.sentences, words)
            start, end = sentence.start, sentence.end
            is_carried = _carries(passage, sentence, words)
        else:
            start, end = repeated
            is_carried = True
        return Citation(
            n=n,
            document_id=chunk.document_id,
            version=chunk.version,
            start=chunk.start + start,
            end=chunk.start + end,
            page=chunk.page,
            quote=chunk.text[start:end],
            supported=is_carried and bool(words) and _numbers(words) <= passage.words,
        )


def _find_repeated(claim: str, text: str) -> tuple[int, int] | None:
    """Return where a claim of more than one sentence stands word for word in a passage.

    A quoted list or code block does.
    """
    quote = claim.replace("\\[", "[").strip()
    if len(split(quote)) < 2:
        return None
    # Code that was cut off was given a fence to end with.
    without_last_line = quote.rpartition("\n")[0].rstrip()
    for candidate in (quote, without_last_line):
        start = text.find(candidate)
        if candidate and start >= 0:
            return start, start + len(candidate)
    return None


def _nearest(sentences: Sequence[_Sentence], words: frozenset[str]) -> _Sentence:
    """Return the sentence that shares most words.

    Of two that share as much, it is the one that says less besides; then the first.
    """
    return max(
        sentences,
        key=lambda sentence: (len(words & sentence.words), -len(sentence.words)),
    )


def _carries(passage: _Passage, sentence: _Sentence, words: frozenset[str]) -> bool:
    """Tell whether enough of a claim's words stand in the sentence, or in the whole passage."""
    if len(words & sentence.words) >= SENTENCE_SHARE * len(words):
        return True
    return len(words & passage.words) >= PASSAGE_SHARE * len(words)


def _numbers(words: frozenset[str]) -> set[str]:
    return {word for word in words if any(map(str.isdigit, word))}


def _words(text: str, language: str) -> frozenset[str]:
    return frozenset(tokenize(_GROUPED.sub("", text), language))


@lru_cache(maxsize=500)  # passages: the good ones are found again and again
def _read(chunk: Chunk) -> _Passage:
    text = chunk.text
    language = chunk.language or detect(text)
    sentences = [
        _Sentence(start=start, end=end, words=_words(text[start:end], language))
        for start, end in split(text) or [(0, len(text))]
    ]
    titles = " ".join((chunk.title, *chunk.heading_path))
    words = _words(titles, language).union(*(sentence.words for sentence in sentences))
    return _Passage(language, sentences, words)

"""Cut texts into the words of keyword search, the same for every engine, chunk and question."""

import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

import Stemmer

from ragqueue.language.detect import detect
from ragqueue.language.scripts import SPACELESS, STEMMED

LONGEST = 64  # characters of a token: an encoded blob is one word, its tail tells nothing
# Vowel signs and points are no word characters to `re`, but part of words in these scripts.
_MARKS = (
    "\u0300-\u036f"  # accents
    "\u0591-\u05bd\u05bf-\u05c7"  # Hebrew
    "\u0610-\u061a\u064b-\u065f\u0670"  # Arabic
    "\u0900-\u0963\u0971-\u0de5\u0df2-\u0df3"  # of India
)
# No token begins with "_": tokens of our own that mark a scope do, and no text can forge them.
_WORD = re.compile(rf"[^\W_][\w{_MARKS}]*(?:[^\W_]|[{_MARKS}])|\d")
_ASCII_WORD = re.compile(r"[a-z0-9]\w*[a-z0-9]|[0-9]", re.ASCII)
_LETTERS = {
    "ß": "ss",
    "æ": "ae",
    "œ": "oe",
    "ø": "o",
    "ł": "l",
    "đ": "d",
    "ð": "d",
    "þ": "th",
    "ı": "i",
}
_FOLDED = dict.fromkeys(range(0x300, 0x370)) | str.maketrans(_LETTERS)
# Holds a thread's stemmers: two threads in one stemmer corrupt its state.
_local = threading.local()


def tokenize(text: str, language: str, *, own: str | None = None) -> list[str]:
    """Return the keyword tokens of a text, in order, repeated as they occur.

    Words lose case, accents and endings, stop words go, and those of the language `own`, too;
    a run of Han, Kana, Hangul or Thai becomes its characters and pairs of neighbours.
    No token holds a space, a quote or a leading "_".
    """
    stops = _stopwords(language, own or language)
    stemmer = _stemmer(language)
    if text.isascii():
        return _words(text.lower(), _ASCII_WORD, stops, stemmer)

    without_soft_hyphens = text.lower().replace("\u00ad", "")
    pieces = SPACELESS.split(unicodedata.normalize("NFKC", without_soft_hyphens))
    tokens: list[str] = []
    for i, piece in enumerate(pieces):
        is_spaceless = i % 2 == 1
        if is_spaceless:
            tokens += list(piece)
            tokens += map("".join, pairwise(piece))
        else:
            tokens += _words(piece, _WORD, stops, stemmer)
    return tokens


def asked(question: str, languages: Iterable[str]) -> dict[str, Counter[str]]:
    """Return the terms of a question as texts of each of these languages hold them.

    Each term comes with how often the question says it. A stop word of the question's own
    language is none of them in any language: where one page is taken for Indonesian,
    "the" would be the rarest word of all.
    """
    own = detect(question)
    terms = {}
    for language in languages:
        tokens = tokenize(question, language, own=own)
        # A question of stop words alone keeps them:
        # a short one may be taken for English and say something else.
        terms[language] = Counter(tokens or tokenize(question, language))
    return terms


def _words(text: str, pattern: re.Pattern[str], stops: Collection[str], stemmer: Any) -> list[str]:
    """Return the words of a text in lower case, without stop words, endings and accents."""
    words = [word[:LONGEST] for word in pattern.findall(text) if word not in stops]
    stems = words if stemmer is None else stemmer.stemWords(words)
    return [stem if stem.isascii() else _without_accents(stem) for stem in stems if stem]


def _stemmer(language: str) -> Any:
    """Return the stemmer of a language for this thread, None where there is none."""
    if language not in STEMMED:
        return None
    stemmers = _local.__dict__
    if language not in stemmers:
        stemmers[language] = Stemmer.Stemmer(language)
    return stemmers[language]


@cache
def _stopwords(*languages: str) -> frozenset[str]:
    """Return the stop words of these languages, with and without their accents."""
    lines = files(__package__).joinpath("stopwords.txt").read_text(encoding="utf-8").splitlines()
    # A line is the code of a language, a space, and its words.
    words = " ".join(line[3:] for line in lines if line[:2] in languages)
    return frozenset([*words.split(), *_without_accents(words).split()])


def _without_accents(text: str) -> str:
    return unicodedata.normalize("NFD", text).translate(_FOLDED)

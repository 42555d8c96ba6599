"""The words of a text for keyword search, the same for every engine, chunk and question: language, tokens, and what they weigh."""

import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from itertools import pairwise

import Stemmer

from ragqueue.language.detect import detect
from ragqueue.language.scripts import SPACELESS, STEMMED

LONGEST = 64  # characters of a token: an encoded blob is one word, its tail tells nothing
# Vowel signs and points are no word characters to `re`, but part of words in these scripts: Hebrew, Arabic, of India.
_MARKS = "\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0971-\u0de5\u0df2-\u0df3"
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
_local = (
    threading.local()
)  # holds a thread's stemmers: two threads in one stemmer corrupt its state


def tokenize(text: str, language: str, *, own: str | None = None) -> list[str]:
    """Return the keyword tokens of a text, in order, repeated as they occur; none holds a space, a quote or a leading "_".

    Words lose case, accents and endings, stop words go, and those of the language `own`, too;
    a run of Han, Kana, Hangul or Thai becomes its characters and pairs of neighbours.
    """
    stops, stemmers = _stopwords(language, own or language), _local.__dict__
    if language in STEMMED and language not in stemmers:
        stemmers[language] = Stemmer.Stemmer(language)
    pattern, pieces = _ASCII_WORD, [text.lower()]
    if not text.isascii():
        pattern, pieces = (
            _WORD,
            SPACELESS.split(unicodedata.normalize("NFKC", text.lower().replace("\u00ad", ""))),
        )
    tokens: list[str] = []
    for at, piece in enumerate(pieces):
        if at % 2:
            tokens += [*piece, *map("".join, pairwise(piece))]
            continue
        words = [word[:LONGEST] for word in pattern.findall(piece) if word not in stops]
        stems = stemmers[language].stemWords(words) if language in stemmers else words
        tokens += [stem if stem.isascii() else _without_accents(stem) for stem in stems if stem]
    return tokens


def asked(question: str, languages: Iterable[str]) -> dict[str, Counter[str]]:
    """Return the terms of a question as texts of each of these languages hold them, with how often the question says each.

    A stop word of the question's own language is none of them in any language:
    where one page is taken for Indonesian, "the" would be the rarest word of all.
    """
    own = detect(question)
    # A question of stop words alone keeps them: a short one may be taken for English and say something else.
    return {
        language: Counter(tokenize(question, language, own=own) or tokenize(question, language))
        for language in languages
    }


@cache
def _stopwords(*languages: str) -> frozenset[str]:
    lines = files(__package__).joinpath("stopwords.txt").read_text(encoding="utf-8").splitlines()
    words = " ".join(line[3:] for line in lines if line[:2] in languages)
    return frozenset([*words.split(), *_without_accents(words).split()])


def _without_accents(text: str) -> str:
    return unicodedata.normalize("NFD", text).translate(_FOLDED)

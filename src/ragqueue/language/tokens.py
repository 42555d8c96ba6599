"""The words of a text for keyword search, the same for every engine, chunk and question: language, tokens, and what they weigh."""

import math
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

import Stemmer

LONGEST = 64  # characters of a token: an encoded blob is one word, its tail tells nothing
K1, B = 1.2, 0.75  # of BM25
SAMPLE = 3000  # characters that are looked at to tell a language
SHORT = 40  # letters: below, the statistics of ASCII text say little
STEMMED = {
    "ar", "ca", "cs", "da", "de", "el", "en", "es", "et", "eu", "fa", "fi", "fr", "ga", "hi", "hu", "hy", "id", "it", "lt", "ne", "nl", "no",
    "pl", "pt", "ro", "ru", "sr", "sv", "ta", "tr",
}  # fmt: skip
# Known, but without a stemmer: their words are indexed as they stand.
UNSTEMMED = {"bg", "bn", "he", "hr", "ja", "ka", "ko", "mk", "sk", "sl", "th", "uk", "ur", "vi", "zh"}
_DENSE = {  # scripts without spaces: Hangul, Thai, Kana, Han
    "ko": "\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3",
    "th": "\u0e01-\u0e3a\u0e40-\u0e4e",
    "ja": "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff",
    "zh": "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f",
}
SPACELESS = re.compile(f"([{''.join(_DENSE.values())}]+)")
# Vowel signs and points are no word characters to `re`, but part of words in these scripts: Hebrew, Arabic, of India.
_MARKS = "\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0971-\u0de5\u0df2-\u0df3"
# No token begins with "_": tokens of our own that mark a scope do, and no text can forge them.
_WORD = re.compile(rf"[^\W_][\w{_MARKS}]*(?:[^\W_]|[{_MARKS}])|\d")
_ASCII_WORD = re.compile(r"[a-z0-9]\w*[a-z0-9]|[0-9]", re.ASCII)
_LETTERS = {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
_FOLDED = dict.fromkeys(range(0x300, 0x370)) | str.maketrans(_LETTERS)
_local = threading.local()  # holds a thread's stemmers: two threads in one stemmer corrupt its state


def detect(text: str) -> str:
    """Return the ISO 639-1 code of the text's language; English for what is too short to tell in plain ASCII."""
    sample = text[:SAMPLE]
    letters = sum(map(str.isalpha, sample))
    if letters == 0 or (letters < SHORT and sample.isascii()):
        return "en"
    counts = {code: len(re.findall(f"[{script}]", sample)) for code, script in _DENSE.items()}
    if 3 * sum(counts.values()) < letters:  # one such character says about as much as three letters
        return str(_identifier().classify(sample)[0])
    if counts["ja"] * 10 > counts["zh"]:  # Japanese writes Han too, but never long without Kana
        counts["zh"] = 0
    return max(counts, key=lambda code: counts[code])


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # here: it costs half a second and numpy

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages((STEMMED | UNSTEMMED) & set(identifier.labels))
    return identifier


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
        pattern, pieces = _WORD, SPACELESS.split(unicodedata.normalize("NFKC", text.lower().replace("\u00ad", "")))
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
    return {language: Counter(tokenize(question, language, own=own) or tokenize(question, language)) for language in languages}


@cache
def _stopwords(*languages: str) -> frozenset[str]:
    lines = files(__package__).joinpath("stopwords.txt").read_text(encoding="utf-8").splitlines()
    words = " ".join(line[3:] for line in lines if line[:2] in languages)
    return frozenset([*words.split(), *_without_accents(words).split()])


def _without_accents(text: str) -> str:
    return unicodedata.normalize("NFD", text).translate(_FOLDED)


def weight(count: int, df: int) -> float:
    """Return the weight of a term that `df` of `count` texts hold; positive, and finite for an unknown term."""
    return math.log1p((max(count - df, 0) + 0.5) / (df + 0.5))


def bm25(weights: Mapping[str, float], tokens: Iterable[str], *, length: int, average: float) -> tuple[float, float]:
    """Return the BM25 of a text of `length` tokens (mean: `average`) for terms of these weights, and its part of the highest, 0..1."""
    held = Counter(filter(weights.__contains__, tokens))
    norm = K1 * (1 - B + B * length / average) if average > 0 else K1
    found = sum(weights[term] * count / (count + norm) for term, count in held.items())
    return found * (K1 + 1), found / sum(weights.values()) if found else 0.0

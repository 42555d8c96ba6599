"""Turn a text into the tokens of keyword search: the same for every engine, for chunks and for questions."""

import re
import threading
import unicodedata
from functools import cache
from importlib.resources import files
from itertools import pairwise

import Stemmer

LONGEST = 64  # characters of a token: an encoded blob is one word, its tail tells nothing

STEMMERS = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish",
    "et": "estonian", "eu": "basque", "fa": "persian", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian",
    "hy": "armenian", "id": "indonesian", "it": "italian", "lt": "lithuanian", "ne": "nepali", "nl": "dutch", "no": "norwegian",
    "pl": "polish", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish", "ta": "tamil", "tr": "turkish",
}  # fmt: skip

HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
HANGUL = "\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3"
THAI = "\u0e01-\u0e3a\u0e40-\u0e4e"
SPACELESS = re.compile(f"([{HAN}{KANA}{HANGUL}{THAI}]+)")
# Vowel signs and points are no word characters to `re`, but part of words in these scripts: Hebrew, Arabic, of India.
_MARKS = "\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0971-\u0de5\u0df2-\u0df3"
# No token begins with "_": tokens of our own that mark a scope do, and no text can forge them.
_WORD = re.compile(rf"[^\W_][\w{_MARKS}]*(?:[^\W_]|[{_MARKS}])|\d")
_ASCII_WORD = re.compile(r"[a-z0-9]\w*[a-z0-9]|[0-9]", re.ASCII)
_FOLDED = dict.fromkeys(range(0x300, 0x370)) | str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
)
_local = threading.local()


def tokenize(text: str, language: str) -> list[str]:
    """Return the keyword tokens of a text, in order, repeated as often as they occur.

    Words lose their case, accents and endings; stop words and question words are left out; a run of Han, Kana,
    Hangul or Thai becomes its characters and pairs of neighbours. A token holds no space, quote or leading "_".
    """
    if text.isascii():
        return _stemmed(_ASCII_WORD.findall(text.lower()), language)
    text = unicodedata.normalize("NFKC", text.lower().replace("\u00ad", ""))
    tokens: list[str] = []
    for at, piece in enumerate(SPACELESS.split(text)):
        tokens += [*piece, *map("".join, pairwise(piece))] if at % 2 else _stemmed(_WORD.findall(piece), language)
    return tokens


def _stemmed(words: list[str], language: str) -> list[str]:
    stops = _stopwords().get(language, frozenset())
    kept = [word[:LONGEST] for word in words if word not in stops]
    stemmer = _stemmer(language)
    stems = stemmer.stemWords(kept) if stemmer is not None else kept
    return [stem if stem.isascii() else _without_accents(stem) for stem in stems if stem]


def _without_accents(word: str) -> str:
    return unicodedata.normalize("NFD", word).translate(_FOLDED)


def _stemmer(language: str) -> Stemmer.Stemmer | None:
    """Return this thread's stemmer of a language: two threads in one stemmer corrupt its state."""
    known: dict[str, Stemmer.Stemmer | None] = _local.__dict__.setdefault("stemmers", {})
    if language not in known:
        known[language] = Stemmer.Stemmer(STEMMERS[language]) if language in STEMMERS else None
    return known[language]


@cache
def _stopwords() -> dict[str, frozenset[str]]:
    lines = files(__package__).joinpath("stopwords.txt").read_text(encoding="utf-8").splitlines()
    return {words[0]: frozenset(words[1:]) | {_without_accents(word) for word in words[1:]} for words in map(str.split, lines)}

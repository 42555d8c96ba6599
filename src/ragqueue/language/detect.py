"""Guess the language of a text."""

import re
from functools import cache
from typing import Any

from ragqueue.language.tokens import HAN, HANGUL, KANA, STEMMERS, THAI

DEFAULT = "en"
SAMPLE = 3000  # characters that are looked at
SHORT = 40  # letters: below, the statistics of ASCII text say little
# Known, but without a stemmer: their words are indexed as they stand.
UNSTEMMED = frozenset({"bg", "bn", "he", "hr", "ja", "ka", "ko", "mk", "sk", "sl", "th", "uk", "ur", "vi", "zh"})
_SCRIPTS = {code: re.compile(f"[{letters}]") for code, letters in {"ko": HANGUL, "th": THAI, "ja": KANA, "zh": HAN}.items()}
_DENSE = 3  # one such character says about as much as three letters


def detect(text: str) -> str:
    """Return the ISO 639-1 code of the text's language; English for what is too short to tell in plain ASCII."""
    sample = text[:SAMPLE]
    letters = sum(map(str.isalpha, sample))
    if letters == 0 or (letters < SHORT and sample.isascii()):
        return DEFAULT
    counts = {code: len(pattern.findall(sample)) for code, pattern in _SCRIPTS.items()}
    if _DENSE * sum(counts.values()) >= letters:
        if counts["ja"] * 10 > counts["zh"]:  # Japanese writes Han too, but never long without Kana
            counts["zh"] = 0
        return max(counts, key=lambda code: counts[code])
    language: str = _identifier().classify(sample)[0]
    return language


@cache
def _identifier() -> Any:
    # Imported when it is needed: it costs half a second and numpy.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages((STEMMERS.keys() | UNSTEMMED) & set(identifier.labels))
    return identifier

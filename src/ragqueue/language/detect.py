"""Tell the language of a text."""

import re
from functools import cache
from typing import Any

from ragqueue.language.scripts import DENSE, STEMMED, UNSTEMMED

SAMPLE = 3000  # characters that are looked at to tell a language
SHORT = 40  # letters: below, the statistics of ASCII text say little


def detect(text: str) -> str:
    """Return the ISO 639-1 code of the text's language.

    What is too short to tell in plain ASCII is English.
    """
    sample = text[:SAMPLE]
    letters = sum(map(str.isalpha, sample))
    if letters == 0 or (letters < SHORT and sample.isascii()):
        return "en"

    counts = {code: len(re.findall(f"[{script}]", sample)) for code, script in DENSE.items()}
    # One character of a dense script says about as much as three letters.
    if 3 * sum(counts.values()) < letters:
        return str(_identifier().classify(sample)[0])

    # Japanese writes Han too, but never long without Kana.
    if counts["ja"] * 10 > counts["zh"]:
        counts["zh"] = 0
    return max(counts, key=lambda code: counts[code])


@cache
def _identifier() -> Any:
    """Return the identifier of the languages that keyword search knows."""
    # Imported here: it costs half a second and numpy.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages((STEMMED | UNSTEMMED) & set(identifier.labels))
    return identifier

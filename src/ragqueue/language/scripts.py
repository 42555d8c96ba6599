"""The languages and scripts that keyword search knows."""

import re

STEMMED = {
    "ar", "ca", "cs", "da", "de", "el", "en", "es", "et", "eu", "fa", "fi", "fr", "ga", "hi", "hu",
    "hy", "id", "it", "lt", "ne", "nl", "no", "pl", "pt", "ro", "ru", "sr", "sv", "ta", "tr",
}  # fmt: skip
# Known, but without a stemmer: their words are indexed as they stand.
UNSTEMMED = {
    "bg", "bn", "he", "hr", "ja", "ka", "ko", "mk", "sk", "sl", "th", "uk", "ur", "vi", "zh",
}  # fmt: skip
# Scripts without spaces: Hangul, Thai, Kana, Han.
DENSE = {
    "ko": "\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3",
    "th": "\u0e01-\u0e3a\u0e40-\u0e4e",
    "ja": "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff",
    "zh": "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f",
}
SPACELESS = re.compile(f"([{''.join(DENSE.values())}]+)")

"""Say what the records can hold.

Every door's texts and numbers pass here before anything is kept.
"""

import math
import re
from collections.abc import Mapping

from ragqueue.errors import InvalidRequest

MOST = 2**63 - 1  # of an integer column
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")


def as_text(text: str) -> str:
    """Return a text of a program (a model, a parser) as one that can be stored.

    Each wrong character is replaced by U+FFFD.
    """
    return _NO_TEXT.sub("\ufffd", text)


def check_storable(what: str, value: object) -> None:
    """Raise InvalidRequest when a value, or one inside it, cannot be stored and given back."""
    if isinstance(value, str):
        if found := _NO_TEXT.search(value):
            kind = "a NUL" if found[0] == "\x00" else "half of a surrogate pair"
            raise InvalidRequest(
                f"{what} holds {kind} at character {found.start()}, which is no text: leave it out"
            )
    elif isinstance(value, int | float):
        if not math.isfinite(value) or not -MOST <= value <= MOST:
            raise InvalidRequest(
                f"{what} is {value!r:.40}: it must be a number between -2^63 and 2^63"
            )
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            check_storable(f"a name in {what}", key)
            check_storable(f"{what}.{key}", inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_storable(what, inner)

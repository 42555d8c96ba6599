"""Keep the prompt's fence out of an answer.

Small models repeat the tags around the passages, and no reader shall see one.
"""

import re

_VALUE = r"[^\"\n]{0,400}"  # bounded: an open quote must not swallow the rest of an answer
_ATTRIBUTES = rf"(?:\s+\w+=(?:\"{_VALUE}\"|[^\s\"<>]+))*+"
# `<source-k3f9 n="1" title="A > B">` and `</source-k3f9>`; not HTML's `<source src="a.webm">`.
_TAG = re.compile(rf"<\s{{0,9}}/?\s{{0,9}}source-[\w-]*+{_ATTRIBUTES}(?:\s*/?>)?", re.IGNORECASE)
# Where the text ends within a tag, or what may become one.
_WORD = "source-"
_REST = rf"[\w-]*+{_ATTRIBUTES}(?:\s+(?:\w+(?:=(?:\"{_VALUE})?)?)?|\s*/)?"
_BEGUN_WORD = "".join(f"(?:{letter}" for letter in _WORD) + _REST + ")?" * len(_WORD)
_BEGUN = re.compile(rf"<\s{{0,9}}(?:/\s{{0,9}})?{_BEGUN_WORD}\Z", re.IGNORECASE)


class EchoFilter:
    """Takes the tags of our fence out of a text that comes in pieces.

    Where it is split makes no difference.
    """

    def __init__(self) -> None:
        self._waiting = ""  # what may become a tag

    def feed(self, text: str, *, last: bool = False) -> str:
        """Return what can be shown; a tag that the last text ends within is not shown either."""
        if not self._waiting and "<" not in text:
            return text
        text = self._waiting + text
        self._waiting = ""
        parts = []
        start = 0
        while (bracket := text.find("<", start)) >= 0:
            parts.append(text[start:bracket])
            if _BEGUN.match(text, bracket):
                if not last:
                    self._waiting = text[bracket:]
                return "".join(parts)
            tag = _TAG.match(text, bracket)
            if tag:
                start = tag.end()
            else:
                parts.append("<")
                start = bracket + 1
        parts.append(text[start:])
        return "".join(parts)

"""Keep the prompt's fence out of an answer: small models repeat the tags around the passages, and no reader shall see one."""

import re

_VALUE = r"[^\"\n]{0,400}"  # bounded: an open quote must not swallow the rest of an answer
_ATTRIBUTES = rf"(?:\s+\w+=(?:\"{_VALUE}\"|[^\s\"<>]+))*+"
# `<source-k3f9 n="1" title="A > B">` and `</source-k3f9>`; not HTML's `<source src="a.webm">`.
_TAG = re.compile(rf"<\s{{0,9}}/?\s{{0,9}}source-[\w-]*+{_ATTRIBUTES}(?:\s*/?>)?", re.IGNORECASE)
# Where the text ends within a tag, or what may become one.
_REST = rf"[\w-]*+{_ATTRIBUTES}(?:\s+(?:\w+(?:=(?:\"{_VALUE})?)?)?|\s*/)?"
_NAME = "".join(f"(?:{letter}" for letter in "source-") + _REST + ")?" * len("source-")
_BEGUN = re.compile(rf"<\s{{0,9}}(?:/\s{{0,9}})?{_NAME}\Z", re.IGNORECASE)


class EchoFilter:
    """Takes the tags of our fence out of a text that comes in pieces; where it is split makes no difference."""

    def __init__(self) -> None:
        self._held = ""  # what may become a tag

    def feed(self, text: str, *, last: bool = False) -> str:
        """Return what can be shown now; a tag that the last text ends within is not shown either."""
        if not self._held and "<" not in text:
            return text
        text, shown, at = self._held + text, [], 0
        self._held = ""
        while (start := text.find("<", at)) >= 0:
            shown.append(text[at:start])
            if _BEGUN.match(text, start):
                self._held = "" if last else text[start:]
                return "".join(shown)
            tag = _TAG.match(text, start)
            shown.append("" if tag else "<")
            at = tag.end() if tag else start + 1
        return "".join([*shown, text[at:]])

"""Find sentences: spans only, so that a quote is always a slice of the text it came from."""

import re
from collections.abc import Iterator

# A line that opens a new block even without an empty line before it: list item, heading, table row, fence, admonition.
_OPENS = re.compile(r"[ \t]*(?:[-*+•‣◦▪][ \t]|\d{1,3}[.)][ \t]|[#]{1,6}[ \t]|[|]|```|~~~|///|:::)")
_ALONE = re.compile(r"[ \t]*(?:[#]{1,6}[ \t]|[|])")  # headings and table rows end with their line
# Possessive, and tried only where a run of stops begins: a page of dots must not cost its square.
_STOP = re.compile(r"[。！？｡]++[」』”’）》】]*+|(?<![.!?…])[.!?…؟।॥۔։።]++[\"'”’»)\]*_`]*+(?=\s)")
_WORD_BEFORE = re.compile(r"[\w.]*\w\Z")
_MONTH = re.compile(r"\s+(?:Jan|Feb|Mär|Apr|Mai|Jun|Jul|Aug|Sep|Okt|Nov|Dez)")  # German: "am 3. Oktober"
_ABBREVIATION = re.compile(  # also initials, e.g, U.S
    r"(?:al|approx|bzw|ca|cf|co|corp|dept|dra?|eds?|esp|evtl|ggf|gov|hr|inc|inkl|jr|lt|ltd|mrs?|ms|mt|prof|resp|rev|sog|sra?|st|str|tel|usw|vgl|vs"
    r"|zzgl|\w|(?:[^\W\d]\.)+[^\W\d])\Z",
    re.I,
)
_BEFORE_NUMBER = re.compile(r"(?:art|ch|eqs?|figs?|max|min|nos?|nr|núm|pág|pp|refs?|sec|tab|vol)\Z", re.I)  # "no." may end a sentence too


def split(text: str) -> list[tuple[int, int]]:
    """Return the spans of the sentences: trimmed, in order, never overlapping; empty lines and new list items end one."""
    return [span for start, end in _blocks(text) for span in _sentences(text, start, end)]


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Yield stretches of lines that can share a sentence; a hard-wrapped paragraph is one stretch."""
    start, at, alone = 0, 0, False
    for line in text.splitlines(keepends=True):
        if alone or not line.strip() or _OPENS.match(line):
            yield start, at
            start = at
        alone = _ALONE.match(line) is not None
        at += len(line)
    yield start, at


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    opening = _OPENS.match(text, start, end)
    marker = opening.end() if opening else start  # "1. Open the box": the number ends no sentence
    for stop in _STOP.finditer(text, start, end):
        if stop.end() > marker and _ends(text, start, stop, end):
            yield from _trimmed(text, start, stop.end())
            start = stop.end()
    yield from _trimmed(text, start, end)


def _ends(text: str, start: int, stop: re.Match[str], end: int) -> bool:
    if stop[0][0] in "。！？｡":
        return True
    following = text[stop.end() : min(end, stop.end() + 100)].lstrip()[:1]
    if stop[0] != "." or following.islower():
        return not following.islower()
    before = _WORD_BEFORE.search(text, max(start, stop.start() - 40), stop.start())
    word = before[0] if before else ""
    if word.isdigit():
        return len(word) > 2 or not _MONTH.match(text, stop.end())
    return not (_ABBREVIATION.match(word) or (following.isdigit() and _BEFORE_NUMBER.match(word)))


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    if body := text[start:end].strip():
        begin = text.index(body, start)
        yield begin, begin + len(body)

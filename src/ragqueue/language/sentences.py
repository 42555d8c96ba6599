"""Find the sentences of a text: spans only, so that a quote is always a slice of its text."""

import re
from collections.abc import Iterator
from itertools import pairwise

from ragqueue.language.markup import INCLUDE

# A line that opens a new block even without an empty line before it:
# list item, heading, table row, fence, admonition.
OPENS = re.compile(
    rf"[ \t]*(?:[-*+•‣◦▪][ \t]|\d{{1,3}}[.)][ \t]|[#]{{1,6}}[ \t]|[|]|```|~~~|///|:::|{INCLUDE})"
)
# Headings, table rows and includes end with their line.
_ALONE = re.compile(rf"[ \t]*(?:[#]{{1,6}}[ \t]|[|]|{INCLUDE})")
# Possessive, and tried only where a run of stops begins: a page of dots must not cost its square.
_STOP = re.compile(r"[。！？｡]++[」』”’）》】]*+|(?<![.!?…])[.!?…؟।॥۔։።]++[\"'”’»)\]*_`]*+(?=\s)")
# The stops that end a sentence whatever follows them.
_CJK_STOPS = "。！？｡"
# German: "am 3. Oktober".
_MONTH = re.compile(r"\s+(?:Jan|Feb|Mär|Apr|Mai|Jun|Jul|Aug|Sep|Okt|Nov|Dez)")
# Also initials, and what stands before the last stop of "e.g." and "U.S.".
_ABBREVIATION = re.compile(
    r"(?i:al|approx|bzw|ca|cf|co|corp|dept|dra?|eds?|esp|evtl|ggf|gov|hr|inc|inkl|jr|lt|ltd|mrs?"
    r"|ms|mt|prof|resp|rev|sog|sra?|st|str|tel|usw|vgl|vs|zzgl"
    r"|\w|(?:[^\W\d]\.)+[^\W\d])\Z"
)
# Abbreviations only before a number: "no." may end a sentence too.
_BEFORE_NUMBER = re.compile(
    r"(?:art|ch|eqs?|figs?|max|min|nos?|nr|núm|pág|pp|refs?|sec|tab|vol)\Z", re.I
)


def split(text: str) -> list[tuple[int, int]]:
    """Return the spans of the sentences: trimmed, in order, never overlapping.

    Empty lines and new list items end one.
    """
    spans = []
    for start, end in _stretches(text):
        for low, high in pairwise([start, *_stops(text, start, end), end]):
            body = text[low:high].strip()
            if body:
                begin = text.index(body, low)
                spans.append((begin, begin + len(body)))
    return spans


def _stretches(text: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of lines that can share a sentence, as a hard-wrapped paragraph does."""
    start = 0
    line_start = 0
    line_above = ""
    for line in text.splitlines(keepends=True):
        if _ALONE.match(line_above) or not line.strip() or OPENS.match(line):
            yield start, line_start
            start = line_start
        line_start += len(line)
        line_above = line
    yield start, len(text)


def _stops(text: str, start: int, end: int) -> list[int]:
    """Return where the sentences of the stretch `text[start:end]` end, but for the last one."""
    opening = OPENS.match(text, start, end)
    # "1. Open the box": the number ends no sentence.
    body_start = opening.end() if opening else start
    stops = []
    for stop in _STOP.finditer(text, start, end):
        if stop.end() > body_start and _ends_sentence(text, start, stop, end):
            stops.append(stop.end())
    return stops


def _ends_sentence(text: str, start: int, stop: re.Match[str], end: int) -> bool:
    """Tell whether a stop in the stretch `text[start:end]` ends a sentence."""
    if stop[0][0] in _CJK_STOPS:
        return True
    following = text[stop.end() : min(end, stop.end() + 100)].lstrip()[:1]
    if following.islower():
        return False
    if stop[0] != ".":
        return True

    word = re.split(r"[^\w.]", text[max(start, stop.start() - 40) : stop.start()])[-1]
    if word.isdigit():
        return len(word) > 2 or not _MONTH.match(text, stop.end())
    if following.isdigit() and _BEFORE_NUMBER.match(word):
        return False
    return not _ABBREVIATION.match(word)

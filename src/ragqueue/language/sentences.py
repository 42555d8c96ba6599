"""Find sentences, and those of some passages that speak to a question: spans only, so that a quote is always a slice of its text."""

import re
from itertools import accumulate, pairwise

from ragqueue.language.markup import INCLUDE

# A line that opens a new block even without an empty line before it: list item, heading, table row, fence, admonition.
OPENS = re.compile(
    rf"[ \t]*(?:[-*+•‣◦▪][ \t]|\d{{1,3}}[.)][ \t]|[#]{{1,6}}[ \t]|[|]|```|~~~|///|:::|{INCLUDE})"
)
_ALONE = re.compile(
    rf"[ \t]*(?:[#]{{1,6}}[ \t]|[|]|{INCLUDE})"
)  # headings, table rows and includes end with their line
# Possessive, and tried only where a run of stops begins: a page of dots must not cost its square.
_STOP = re.compile(r"[。！？｡]++[」』”’）》】]*+|(?<![.!?…])[.!?…؟।॥۔։።]++[\"'”’»)\]*_`]*+(?=\s)")
_MONTH = re.compile(
    r"\s+(?:Jan|Feb|Mär|Apr|Mai|Jun|Jul|Aug|Sep|Okt|Nov|Dez)"
)  # German: "am 3. Oktober"
_ABBREVIATION = re.compile(  # also initials, e.g, U.S
    r"(?i:al|approx|bzw|ca|cf|co|corp|dept|dra?|eds?|esp|evtl|ggf|gov|hr|inc|inkl|jr|lt|ltd|mrs?|ms|mt|prof|resp|rev|sog|sra?|st|str|tel|usw"
    r"|vgl|vs|zzgl|\w|(?:[^\W\d]\.)+[^\W\d])\Z"
)
_BEFORE_NUMBER = re.compile(
    r"(?:art|ch|eqs?|figs?|max|min|nos?|nr|núm|pág|pp|refs?|sec|tab|vol)\Z", re.I
)  # "no." may end a sentence too


def split(text: str) -> list[tuple[int, int]]:
    """Return the spans of the sentences: trimmed, in order, never overlapping; empty lines and new list items end one."""
    lines, spans = text.splitlines(keepends=True), []
    placed = zip(accumulate(map(len, lines), initial=0), ["", *lines], lines, strict=False)
    # Where a stretch of lines begins that can share a sentence, as a hard-wrapped paragraph does.
    starts = [
        at
        for at, above, line in placed
        if _ALONE.match(above) or not line.strip() or OPENS.match(line)
    ]
    for start, end in pairwise([0, *starts, len(text)]):
        opening = OPENS.match(text, start, end)
        marker = (
            opening.end() if opening else start
        )  # "1. Open the box": the number ends no sentence
        stops = [
            stop.end()
            for stop in _STOP.finditer(text, start, end)
            if stop.end() > marker and _ends(text, start, stop, end)
        ]
        for low, high in pairwise([start, *stops, end]):
            if body := text[low:high].strip():
                begin = text.index(body, low)
                spans.append((begin, begin + len(body)))
    return spans


def _ends(text: str, start: int, stop: re.Match[str], end: int) -> bool:
    following = text[stop.end() : min(end, stop.end() + 100)].lstrip()[:1]
    if stop[0] != "." or following.islower():
        return stop[0][0] in "。！？｡" or not following.islower()
    word = re.split(r"[^\w.]", text[max(start, stop.start() - 40) : stop.start()])[-1]
    if word.isdigit():
        return len(word) > 2 or not _MONTH.match(text, stop.end())
    return not (_ABBREVIATION.match(word) or (following.isdigit() and _BEFORE_NUMBER.match(word)))

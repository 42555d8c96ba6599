"""What Markdown and its kin say beside their words: fenced code, what a sentence announces, and lines that say nothing to a reader."""

import re

LONGEST_BLOCK = 1500  # characters of a block that a sentence brings with it
FENCE_MARK = re.compile(r"^[ \t]*(`{3,}|~{3,})", re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
# The end of code whose beginning stands in the passage before: a bare fence right under a line, and nothing right below it.
_CUT_OFF = re.compile(r"[^\n]*\S[^\n]*\n[ \t]*(?:```|~~~)[ \t]*(?=\n[ \t]*\n|\s*\Z)")
_BLANK = re.compile(r"(?:[ \t]*\n)+")
# Includes of MkDocs, Jinja, Sphinx and the snippets of PyMdown: the page that a reader sees has something else in their place.
INCLUDE = r"\{[*!%]|\.\.[ ][\w:-]+::|-{1,2}8<-{1,2}"
_NO_BLOCK = re.compile(rf"[ \t]*(?:{INCLUDE}|#|///|:::|!!!|<!--|\Z)")
_INDENTED = re.compile(r"(?:[ ]{4}|\t)")
_ITEM = re.compile(r"[ \t]*(?:[-*+•‣◦▪]|\d{1,3}[.)])[ \t]")
_WITHIN_LIST = re.compile(rf"[ \t]+\S|{_ITEM.pattern}")
_BREAKS = re.compile(rf"#|```|~~~|///|:::|{INCLUDE}")
_CODE_GOES_ON = re.compile(r"(?:\S|[=,(\[{+]\s+)\Z")
_GOES_ON = re.compile(r"(?:\.\.\.|…)?[^\W\d_A-Z]")  # a sentence that began before the code above it
_SETEXT = re.compile(r"\n[ \t]*(?:={2,}|-{2,})[ \t]*(?:\n|\Z)")
_LINK = re.compile(r"!?\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])|<https?://[^>]*>|https?://\S+")
_BETWEEN_LINKS = re.compile(r"\s[|·•»›/]\s")


def fences(text: str) -> list[tuple[int, int]]:
    """Return the spans of fenced code, also of one whose beginning or end stands in another passage."""
    marks, spans = list(FENCE_MARK.finditer(text)), list[tuple[int, int]]()
    if len(marks) % 2:
        above = text.rfind("\n", 0, max(0, marks[0].start() - 1)) + 1
        if marks[0].start() and (cut := _CUT_OFF.match(text, above)):
            spans.append((0, cut.end()))
    return spans + [match.span() for match in _FENCE.finditer(text, spans[0][1] if spans else 0)]


def open_fence(text: str) -> str:
    """Return the mark of the fence that a text leaves open, nothing when it leaves none."""
    fence = ""
    for mark in FENCE_MARK.findall(text):
        if not fence:
            fence = mark
        elif mark.startswith(fence):
            fence = ""
    return fence


def is_code(before: str) -> bool:
    """Tell whether a bracket after this text stands in code: in an open fence, or in backticks as in `a[1]` and `a = [1]`."""
    if "`" not in before and "~~~" not in before:
        return False
    line_start = before.rfind("\n") + 1
    if open_fence(before[:line_start]):
        return True
    # A lone backtick is none of a pair: behind it, too, a marker of ours stands after a space.
    return before.count("`", line_start) % 2 == 1 and _CODE_GOES_ON.search(before) is not None


def announces(sentence: str) -> bool:
    """Tell whether a sentence says that something follows."""
    return sentence.endswith((":", "："))


def announced(text: str, at: int) -> int:
    """Return where what the sentence that ends at `at` announces ends: a code block, list, table or paragraph; `at` when nothing follows.

    "..., like: (code) instead of: (code)" is one sentence: it brings both.
    """
    end, limit = at, at + LONGEST_BLOCK
    while blank := _BLANK.match(text, end):
        stop = block_at(text, blank.end())[1]
        goes_on = end == at or announces(text[:end])
        if (
            stop <= blank.end()
            or stop > limit
            or not (goes_on or _GOES_ON.match(text, blank.end()))
        ):
            break
        end = stop
    return end


def block_at(text: str, start: int) -> tuple[int, int]:
    """Return the span of the block that begins at this line, an empty one for what is none; at most `LONGEST_BLOCK` characters of whole lines."""
    if _NO_BLOCK.match(text, start):
        return start, start
    end = next((stop for begin, stop in fences(text) if begin == start), None) or _end(text, start)
    if end - start > LONGEST_BLOCK:
        line_end = text.rfind("\n", start, start + LONGEST_BLOCK)
        end = line_end if line_end > start else start + LONGEST_BLOCK
    return start, end


def _end(text: str, start: int) -> int:
    """Return where a block without a fence ends: at an empty line, behind which a list goes on with an item, and code with an indent."""
    goes_on = (
        _WITHIN_LIST
        if _ITEM.match(text, start)
        else _INDENTED
        if _INDENTED.match(text, start)
        else None
    )
    at, end, blank = start, start, False
    for line in text[start:].splitlines(keepends=True):
        if line.strip():
            ends = _BREAKS.match(line) or (blank and not (goes_on and goes_on.match(line)))
            if at > start and ends:
                break
            end = at + len(line.rstrip())
        blank = not line.strip()
        at += len(line)
    return end


def closed(text: str) -> str:
    """Return the text with an end for the fence that it leaves open."""
    fence = open_fence(text)
    return f"{text}\n{fence}" if fence else text


def says_nothing(sentence: str) -> bool:
    """Tell whether a sentence is a heading, a row of links or an include: a reader learns nothing from it."""
    if re.match(rf"#{{1,6}}[ \t]|{INCLUDE}", sentence) or _SETEXT.search(sentence):
        return True
    parts = _BETWEEN_LINKS.split(sentence)
    if len(parts) > 2 and sentence[0] != "|" and all(0 < len(part.split()) <= 4 for part in parts):
        return True
    rest = _LINK.sub(" ", sentence)
    return (
        rest != sentence
        and sum(map(str.isalpha, rest)) * 3 < sum(map(str.isalpha, sentence))
        and len(rest.split()) < 4
    )

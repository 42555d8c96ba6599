"""Read what Markdown and its kin say beside their words.

That is fenced code, what a sentence announces, and lines that say nothing to a reader.
"""

import re

LONGEST_BLOCK = 1500  # characters of a block that a sentence brings with it
FENCE_MARK = re.compile(r"^[ \t]*(`{3,}|~{3,})", re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
# The end of code whose beginning stands in the passage before:
# a bare fence right under a line, and nothing right below it.
_CUT_OFF = re.compile(r"[^\n]*\S[^\n]*\n[ \t]*(?:```|~~~)[ \t]*(?=\n[ \t]*\n|\s*\Z)")
_BLANK = re.compile(r"(?:[ \t]*\n)+")
# Includes of MkDocs, Jinja, Sphinx and the snippets of PyMdown:
# the page that a reader sees has something else in their place.
INCLUDE = r"\{[*!%]|\.\.[ ][\w:-]+::|-{1,2}8<-{1,2}"
_NO_BLOCK = re.compile(rf"[ \t]*(?:{INCLUDE}|#|///|:::|!!!|<!--|\Z)")
_INDENTED = re.compile(r"(?:[ ]{4}|\t)")
_ITEM = re.compile(r"[ \t]*(?:[-*+•‣◦▪]|\d{1,3}[.)])[ \t]")
_WITHIN_LIST = re.compile(rf"[ \t]+\S|{_ITEM.pattern}")
_BREAKS = re.compile(rf"#|```|~~~|///|:::|{INCLUDE}")
_CODE_GOES_ON = re.compile(r"(?:\S|[=,(\[{+]\s+)\Z")
# A sentence that began before the code above it.
_GOES_ON = re.compile(r"(?:\.\.\.|…)?[^\W\d_A-Z]")
_HEADING_OR_INCLUDE = re.compile(rf"#{{1,6}}[ \t]|{INCLUDE}")
_SETEXT = re.compile(r"\n[ \t]*(?:={2,}|-{2,})[ \t]*(?:\n|\Z)")
_LINK = re.compile(r"!?\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])|<https?://[^>]*>|https?://\S+")
_BETWEEN_LINKS = re.compile(r"\s[|·•»›/]\s")


def fences(text: str) -> list[tuple[int, int]]:
    """Return the spans of fenced code, also of one whose beginning or end is in another passage."""
    spans = []
    start = _cut_off_end(text)
    if start > 0:
        spans.append((0, start))
    spans += [match.span() for match in _FENCE.finditer(text, start)]
    return spans


def _cut_off_end(text: str) -> int:
    """Return where code ends that begins in the passage before; 0 when there is none."""
    marks = list(FENCE_MARK.finditer(text))
    if len(marks) % 2 == 0:
        return 0
    first = marks[0].start()
    if first == 0:
        return 0
    line_above = text.rfind("\n", 0, first - 1) + 1
    cut_off = _CUT_OFF.match(text, line_above)
    return cut_off.end() if cut_off else 0


def open_fence(text: str) -> str:
    """Return the mark of the fence that a text leaves open, nothing when it leaves none."""
    fence = ""
    for mark in FENCE_MARK.findall(text):
        if not fence:
            fence = mark
        elif mark.startswith(fence):
            fence = ""
    return fence


def closed(text: str) -> str:
    """Return the text with an end for the fence that it leaves open."""
    fence = open_fence(text)
    if not fence:
        return text
    return f"{text}\n{fence}"


def is_code(before: str) -> bool:
    """Tell whether a bracket after this text stands in code.

    That is in an open fence, or in backticks as in `a[1]` and `a = [1]`.
    """
    if "`" not in before and "~~~" not in before:
        return False
    line_start = before.rfind("\n") + 1
    if open_fence(before[:line_start]):
        return True
    # A lone backtick is none of a pair: behind it, too, a marker of ours stands after a space.
    in_backticks = before.count("`", line_start) % 2 == 1
    return in_backticks and _CODE_GOES_ON.search(before) is not None


def announces(sentence: str) -> bool:
    """Tell whether a sentence says that something follows."""
    return sentence.endswith((":", "："))


def announced(text: str, at: int) -> int:
    """Return where the block ends that the sentence up to `at` announces; `at` without one.

    It is a code block, list, table or paragraph.
    "..., like: (code) instead of: (code)" is one sentence: it brings both.
    """
    end = at
    while blank := _BLANK.match(text, end):
        start = blank.end()
        goes_on = end == at or announces(text[:end]) or _GOES_ON.match(text, start)
        if not goes_on:
            break
        _, stop = block_at(text, start)
        if stop <= start or stop > at + LONGEST_BLOCK:
            break
        end = stop
    return end


def block_at(text: str, start: int) -> tuple[int, int]:
    """Return the span of the block that begins at this line, an empty one for what is none.

    It has at most `LONGEST_BLOCK` characters, of whole lines.
    """
    if _NO_BLOCK.match(text, start):
        return start, start
    end = _block_end(text, start)
    longest_end = start + LONGEST_BLOCK
    if end > longest_end:
        line_end = text.rfind("\n", start, longest_end)
        end = line_end if line_end > start else longest_end
    return start, end


def _block_end(text: str, start: int) -> int:
    for fence_start, fence_end in fences(text):
        if fence_start == start:
            return fence_end
    return _unfenced_end(text, start)


def _unfenced_end(text: str, start: int) -> int:
    """Return where a block without a fence ends: at an empty line, if it does not go on behind."""
    goes_on = _continuation(text, start)
    line_start = start
    end = start
    after_blank = False
    for line in text[start:].splitlines(keepends=True):
        if not line.strip():
            after_blank = True
        elif line_start > start and _is_behind_block(line, after_blank, goes_on):
            break
        else:
            end = line_start + len(line.rstrip())
            after_blank = False
        line_start += len(line)
    return end


def _is_behind_block(line: str, after_blank: bool, goes_on: re.Pattern[str] | None) -> bool:
    """Tell whether a line belongs no more to the block of the lines before it."""
    if _BREAKS.match(line):
        return True
    if not after_blank:
        return False
    return goes_on is None or not goes_on.match(line)


def _continuation(text: str, start: int) -> re.Pattern[str] | None:
    """Return how a line begins that goes on with this block behind an empty line.

    A list goes on with an item, and code with an indent; nothing else goes on.
    """
    if _ITEM.match(text, start):
        return _WITHIN_LIST
    if _INDENTED.match(text, start):
        return _INDENTED
    return None


def says_nothing(sentence: str) -> bool:
    """Tell whether a reader learns nothing from a sentence: a heading, row of links or include."""
    return (
        _HEADING_OR_INCLUDE.match(sentence) is not None
        or _SETEXT.search(sentence) is not None
        or _is_row_of_links(sentence)
        or _is_mostly_links(sentence)
    )


def _is_row_of_links(sentence: str) -> bool:
    """Tell whether a sentence is three or more short parts between bars or dots, and no table."""
    parts = _BETWEEN_LINKS.split(sentence)
    if len(parts) < 3 or sentence[0] == "|":
        return False
    return all(0 < len(part.split()) <= 4 for part in parts)


def _is_mostly_links(sentence: str) -> bool:
    """Tell whether less than a third of a sentence's letters, and few words, are in no link."""
    rest = _LINK.sub(" ", sentence)
    if rest == sentence:
        return False
    return 3 * _letters(rest) < _letters(sentence) and len(rest.split()) < 4


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text))

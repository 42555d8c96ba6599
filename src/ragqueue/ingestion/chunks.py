"""Cut a document into passages along its structure: headings, blocks, rows, sentences, words; every one is a slice of the text."""

import math
import re
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise

from ragqueue.language.markup import announces
from ragqueue.language.sentences import split
from ragqueue.types import Block, Parsed, Passage

_WIDE = "\u2e80-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003134f"  # scripts without spaces, their punctuation: a token a character
# Within 10 % of WordPiece on English prose and Markdown; other Latin scripts have a third more pieces.
_TOKEN = re.compile(rf"[A-Za-z]{{1,7}}|\d{{1,3}}|[{_WIDE}]|[^\W\d_A-Za-z{_WIDE}]{{1,2}}|[^\w\s]|_")
_WORD = re.compile(
    rf"[{_WIDE}]|[^\s{_WIDE}]{{1,200}}"
)  # 200: an encoded picture is one word without end
_PARAGRAPH = re.compile(r"\S(?:.*?\S)??(?=\s*?\n[^\S\n]*\n|\s*\Z)", re.DOTALL)
_LINE = re.compile(r"\S(?:.*\S)?")
_ITEM = re.compile(r"\S(?:.*?\S)??(?=\s*?\n[ \t]*(?:[-*+•]|\d{1,9}[.)])[ \t]|\s*\Z)", re.DOTALL)
_ROWS = {"table": _LINE, "code": _LINE, "list": _ITEM}
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>")
_WORDS = 3  # the depth at which a piece of a block falls into words


def chunk(
    parsed: Parsed, *, target: int = 200, smallest: int = 64, largest: int = 256
) -> list[Passage]:
    """Return passages of about `target` tokens, at most `largest`, that hold all blocks in order; what is below `smallest` joins the next."""
    passages = []
    for section in _sections(parsed, target, smallest):
        path = section[0].heading_path
        path = path[path[:1] == (parsed.title,) :]
        for run in _packed(parsed.text, section, target, smallest, largest):
            start, end = run[0].start, run[-1].end
            passages.append(Passage(parsed.text[start:end], start, end, path, run[0].page))
    return passages


def count(text: str) -> int:
    """Return about how many word pieces a text has; of two texts joined never more than of both apart."""
    return len(_TOKEN.findall(text))


def _sections(parsed: Parsed, target: int, smallest: int) -> list[list[Block]]:
    """Return the blocks under each heading, small sections joined with those that follow under the same one."""
    text, sections = parsed.text, list[list[Block]]()
    # Behind something unseen (a comment, a script) a section begins, for no passage may reach across it.
    shut = {
        then.start
        for block, then in pairwise(parsed.blocks)
        if re.search(r"\w", _MARKUP.sub("", text[block.end : then.start]))
    }
    for block in parsed.blocks:
        if (
            sections
            and block.kind != "heading"
            and block.heading_path == sections[-1][0].heading_path
            and block.start not in shut
        ):
            sections[-1].append(block)
        else:
            sections.append([block])
    joined = sections[:1]
    for section in sections[1:]:
        start, path, other = (
            joined[-1][0].start,
            joined[-1][0].heading_path,
            section[0].heading_path,
        )
        below = bool(path) and other[: len(path)] == path
        beside = len(path) > 1 and other[:-1] == path[:-1]
        joins = (
            (below or beside)
            and section[0].start not in shut
            and count(text[start : joined[-1][-1].end]) < smallest
        )
        if joins and (
            count(text[start : section[-1].end]) <= target
            or (below and all(block.kind == "heading" for block in joined[-1]))
        ):
            joined[-1] += section
        else:
            joined.append(section)
    return joined


def _finer(text: str, piece: Block, depth: int) -> list[tuple[Block, int]]:
    """Return the trimmed parts of a piece, one step finer: its paragraphs, rows, sentences or words."""
    start, end = piece.start, piece.end
    if depth == _WORDS - 1:
        spans = [(start + begin, start + stop) for begin, stop in split(text[start:end])]
    else:
        part = _PARAGRAPH if depth == 0 else _WORD if depth == _WORDS else _ROWS.get(piece.kind)
        spans = (
            [match.span() for match in part.finditer(text, start, end)] if part else [(start, end)]
        )
    return [(piece._replace(start=begin, end=stop), depth + 1) for begin, stop in spans]


def _packed(
    text: str, blocks: Sequence[Block], target: int, smallest: int, largest: int
) -> Iterator[list[Block]]:
    """Yield runs of pieces of about equal size; one that is too large, or leaves a run too small, is split."""
    waiting = deque((block, 0) for block in blocks)
    rest = count(text[blocks[0].start : blocks[-1].end])
    run: list[Block] = []
    size, aim = 0, 0.0
    while waiting:
        piece, depth = waiting.popleft()
        whole = size + count(text[run[-1].end if run else piece.start : piece.end])
        whole_table = piece.kind == "table" and any(held.kind != "heading" for held in run)
        breaks = (size < smallest and not whole_table) or count(
            text[piece.start : piece.end]
        ) > largest
        announced = bool(run) and announces(text[run[-1].start : run[-1].end])
        remains = (
            rest >= smallest or size + rest > largest
        )  # what is left is enough for a passage of its own
        if whole > largest and breaks and depth <= _WORDS:
            waiting.extendleft(reversed(_finer(text, piece, depth)))
        elif run and (
            whole > largest
            or (remains and size >= smallest and size + whole > 2 * aim and not announced)
        ):
            waiting.appendleft((piece, depth))
            before = count(text[run[0].start : run[-2].end]) if announced and len(run) > 1 else 0
            if before >= smallest:  # the announcement goes with what it announces
                waiting.appendleft((run.pop(), depth))
                rest += size - before
            yield run
            run, size = [], 0
        else:
            aim = aim if run else rest / max(1, math.ceil(rest / target))
            run, rest, size = [*run, piece], rest - (whole - size), whole
    yield run

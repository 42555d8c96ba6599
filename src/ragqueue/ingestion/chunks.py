"""Cut a document into passages along its structure: headings, blocks, rows, sentences, words; every one is a slice of the text."""

import math
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from ragqueue.language.sentences import split
from ragqueue.types import Block, Parsed, Passage

_WIDE = "\u2e80-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003134f"  # scripts without spaces, their punctuation: a token a character
# Within 10 % of WordPiece on English prose and Markdown; other Latin scripts have a third more pieces.
_TOKEN = re.compile(rf"[A-Za-z]{{1,7}}|\d{{1,3}}|[{_WIDE}]|[^\W\d_A-Za-z{_WIDE}]{{1,2}}|[^\w\s]|_")
_WORD = re.compile(rf"[{_WIDE}]|[^\s{_WIDE}]{{1,200}}")  # 200: an encoded picture is one word without end
_EMPTY_LINE = re.compile(r"\n[^\S\n]*\n")
_ROW_ENDS = {"table": re.compile(r"\n"), "code": re.compile(r"\n"), "list": re.compile(r"\n(?=[ \t]*(?:[-*+•]|\d{1,9}[.)])[ \t])")}
_BODY = re.compile(r"\S(?:.*\S)?", re.S)  # a stretch without the space around it
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>")
_WORDS = 3  # the depth at which a stretch falls into words: empty lines, rows, sentences, words


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of one block that stays together."""

    block: Block
    start: int
    end: int
    size: int  # tokens
    depth: int  # of the step that would split it further
    gap: int = 0  # tokens between the piece before and this one


@dataclass(frozen=True, slots=True)
class _Section:
    """Blocks that share a heading."""

    blocks: tuple[Block, ...]
    size: int
    apart: bool  # something unseen (a comment, a script) stands before it: no passage may reach across

    @property
    def path(self) -> tuple[str, ...]:
        return self.blocks[0].heading_path


def chunk(parsed: Parsed, *, target: int = 200, smallest: int = 64, largest: int = 256) -> list[Passage]:
    """Return passages of about `target` tokens: in order, never overlapping, together all that the blocks hold.

    No passage is above `largest`, except a single word; a table or list is cut at its rows only when it is. A section
    below `smallest` goes with the next one under the same heading; no passage crosses a top heading.
    """
    passages = []
    for section in _merged(_sections(parsed), target, smallest):
        path = section.path[1:] if section.path[:1] == (parsed.title,) else section.path
        for run in _packed(parsed.text, _pieces(parsed.text, section.blocks, largest), target, smallest, largest):
            start, end = run[0].start, run[-1].end
            passages.append(Passage(parsed.text[start:end], start, end, heading_path=path, page=run[0].block.page))
    return passages


def count(text: str) -> int:
    """Return about how many word pieces a text has; of two texts joined never more than of both apart."""
    return len(_TOKEN.findall(text))


def _sections(parsed: Parsed) -> Iterator[_Section]:
    groups: list[tuple[bool, list[Block]]] = []
    end = 0
    for block in parsed.blocks:
        hidden = bool(groups) and re.search(r"\w", _MARKUP.sub("", parsed.text[end : block.start])) is not None
        if groups and not hidden and block.kind != "heading" and block.heading_path == groups[-1][1][0].heading_path:
            groups[-1][1].append(block)
        else:
            groups.append((hidden, [block]))
        end = block.end
    for apart, blocks in groups:
        yield _Section(tuple(blocks), count(parsed.text[blocks[0].start : blocks[-1].end]), apart)


def _merged(sections: Iterator[_Section], target: int, smallest: int) -> list[_Section]:
    """Return sections, small ones joined with those that follow under the same heading."""
    merged: list[_Section] = []
    for section in sections:
        if merged and (last := merged[-1]).size < smallest and not section.apart and _belong(last, section, target):
            merged[-1] = _Section(last.blocks + section.blocks, last.size + section.size, last.apart)
        else:
            merged.append(section)
    return merged


def _belong(first: _Section, second: _Section, target: int) -> bool:
    if first.path and second.path[: len(first.path)] == first.path:  # the second stands below the first
        return first.size + second.size <= target or all(block.kind == "heading" for block in first.blocks)
    siblings = len(first.path) > 1 and first.path[:-1] == second.path[:-1]
    return siblings and first.size + second.size <= target


def _pieces(text: str, blocks: Sequence[Block], largest: int) -> Iterator[_Piece]:
    """Yield the blocks, those above `largest` split; a heading leaves room for itself in what follows it."""
    end, headings = blocks[0].start, 0
    for block in blocks:
        room = largest - headings if headings < largest // 2 else largest
        for piece in _split(text, block, block.start, block.end, 0, room):
            yield replace(piece, gap=count(text[end : piece.start]))
            end = piece.end
        headings = headings + count(text[block.start : block.end]) if block.kind == "heading" else 0


def _split(text: str, block: Block, start: int, end: int, depth: int, room: int) -> Iterator[_Piece]:
    size = count(text[start:end])
    if size <= room or depth > _WORDS:
        yield _Piece(block, start, end, size, depth)
        return
    for begin, stop in _finer(text, block, start, end, depth):
        yield from _split(text, block, begin, stop, depth + 1, room)


def _finer(text: str, block: Block, start: int, end: int, depth: int) -> Iterator[tuple[int, int]]:
    """Yield the trimmed parts of a stretch, one step finer."""
    if depth == _WORDS:
        yield from (word.span() for word in _WORD.finditer(text, start, end))
    elif depth == _WORDS - 1:
        yield from ((start + begin, start + stop) for begin, stop in split(text[start:end]))
    else:
        cuts = _EMPTY_LINE if depth == 0 else _ROW_ENDS.get(block.kind)
        for cut in cuts.finditer(text, start, end) if cuts else ():
            yield from (body.span() for body in _BODY.finditer(text, start, cut.start()))
            start = cut.end()
        yield from (body.span() for body in _BODY.finditer(text, start, end))


def _packed(text: str, pieces: Iterator[_Piece], target: int, smallest: int, largest: int) -> Iterator[list[_Piece]]:
    """Yield runs of pieces of about equal size; a heading is never the last of its run when it can be the first of the next."""
    waiting = deque(pieces)
    rest = sum(piece.size + piece.gap for piece in waiting)
    run: list[_Piece] = []
    size, aim = 0, 0.0
    while waiting:
        piece = waiting.popleft()
        whole = size + piece.gap + piece.size
        if run and whole > largest and size < smallest and piece.depth <= _WORDS and piece.block.kind != "table":
            parts = list(_split(text, piece.block, piece.start, piece.end, piece.depth, max(1, largest - size - piece.gap)))
            rest += sum(part.size for part in parts) - piece.size
            waiting.extendleft(reversed([replace(parts[0], gap=piece.gap), *parts[1:]]))
            continue
        last = rest < smallest and size + rest <= largest  # what is left is too little for a passage of its own
        if run and (whole > largest or (size >= smallest and whole - aim > aim - size and not last)):
            carried = _carried(run, largest - piece.gap - piece.size)
            yield run[: len(run) - len(carried)]
            run, size = carried, sum(heading.size + heading.gap for heading in carried)
            whole = size + piece.gap + piece.size
        if not run:
            whole, aim = piece.size, rest / max(1, math.ceil(rest / target))
        run, size, rest = [*run, piece], whole, rest - piece.gap - piece.size
    yield run


def _carried(run: Sequence[_Piece], room: int) -> list[_Piece]:
    """Return the headings at the end of a run that go over to the next one."""
    carried = list(takewhile(lambda piece: piece.block.kind == "heading", reversed(run[1:])))[::-1]
    return carried if sum(heading.size + heading.gap for heading in carried) <= room else []

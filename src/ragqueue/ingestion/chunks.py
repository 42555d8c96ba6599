"""Cut a document into passages along its structure: headings, blocks, rows, sentences, words.

Every passage is a slice of the text.
"""

import math
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ragqueue.language.markup import announces
from ragqueue.language.sentences import split
from ragqueue.types import Block, Parsed, Passage

# Scripts without spaces, and their punctuation: a token a character.
_WIDE = "\u2e80-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003134f"
# Within 10 % of WordPiece on English prose and Markdown;
# other Latin scripts have a third more pieces.
_TOKEN = re.compile(rf"[A-Za-z]{{1,7}}|\d{{1,3}}|[{_WIDE}]|[^\W\d_A-Za-z{_WIDE}]{{1,2}}|[^\w\s]|_")
# 200: an encoded picture is one word without end.
_WORD = re.compile(rf"[{_WIDE}]|[^\s{_WIDE}]{{1,200}}")
_PARAGRAPH = re.compile(r"\S(?:.*?\S)??(?=\s*?\n[^\S\n]*\n|\s*\Z)", re.DOTALL)
_LINE = re.compile(r"\S(?:.*\S)?")
_ITEM = re.compile(r"\S(?:.*?\S)??(?=\s*?\n[ \t]*(?:[-*+•]|\d{1,9}[.)])[ \t]|\s*\Z)", re.DOTALL)
_ROWS = {"table": _LINE, "code": _LINE, "list": _ITEM}
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>")
# The depths at which a piece of a block falls into ever finer parts.
_INTO_PARAGRAPHS = 0
_INTO_ROWS = 1
_INTO_SENTENCES = 2
_INTO_WORDS = 3

_Section = list[Block]  # the blocks under one heading, or under several small ones


class _Sizes(NamedTuple):
    """How large passages shall be, in tokens."""

    target: int
    smallest: int
    largest: int


def chunk(
    parsed: Parsed, *, target: int = 200, smallest: int = 64, largest: int = 256
) -> list[Passage]:
    """Return passages of about `target` tokens, at most `largest`, that hold all blocks in order.

    What is below `smallest` joins the next.
    """
    sizes = _Sizes(target=target, smallest=smallest, largest=largest)
    passages = []
    for section in _sections(parsed, sizes):
        heading_path = _path_below_title(section[0].heading_path, parsed.title)
        for pieces in _Packer(parsed.text, section, sizes).pack():
            start = pieces[0].start
            end = pieces[-1].end
            passage = Passage(
                text=parsed.text[start:end],
                start=start,
                end=end,
                heading_path=heading_path,
                page=pieces[0].page,
            )
            passages.append(passage)
    return passages


def count(text: str) -> int:
    """Return about how many word pieces a text has; of two texts joined never more than apart."""
    return len(_TOKEN.findall(text))


def _path_below_title(heading_path: tuple[str, ...], title: str) -> tuple[str, ...]:
    if heading_path and heading_path[0] == title:
        return heading_path[1:]
    return heading_path


def _sections(parsed: Parsed, sizes: _Sizes) -> list[_Section]:
    """Return the blocks under each heading, small sections joined with those that follow."""
    joined: list[_Section] = []
    for section in _sections_by_heading(parsed):
        if joined and _joins(parsed.text, joined[-1], section, sizes):
            joined[-1] += section
        else:
            joined.append(section)
    return joined


def _sections_by_heading(parsed: Parsed) -> list[_Section]:
    """Return the blocks under each heading; behind something unseen a section begins, too."""
    sections: list[_Section] = []
    for block in parsed.blocks:
        if sections and _continues(parsed.text, sections[-1], block):
            sections[-1].append(block)
        else:
            sections.append([block])
    return sections


def _continues(text: str, above: _Section, block: Block) -> bool:
    """Tell whether a block belongs to the section above it."""
    if block.kind == "heading" or not _same_heading(above, [block]):
        return False
    return not _hidden_between(text, above, [block])


def _joins(text: str, above: _Section, section: _Section, sizes: _Sizes) -> bool:
    """Tell whether a small section takes in the one that follows it."""
    below = _below(above, section)
    if not below and not _beside(above, section):
        return False
    if _hidden_between(text, above, section):
        return False

    start = above[0].start
    if count(text[start : above[-1].end]) >= sizes.smallest:
        return False
    # Headings without a text of their own go with what they head, of any size.
    if below and all(block.kind == "heading" for block in above):
        return True
    return count(text[start : section[-1].end]) <= sizes.target


def _same_heading(above: _Section, section: _Section) -> bool:
    """Tell whether two sections stand under the same heading."""
    return above[0].heading_path == section[0].heading_path


def _hidden_between(text: str, above: _Section, section: _Section) -> bool:
    """Tell whether something unseen (a comment, a script) stands between two sections.

    No passage may reach across it.
    """
    between = text[above[-1].end : section[0].start]
    return re.search(r"\w", _MARKUP.sub("", between)) is not None


def _below(above: _Section, section: _Section) -> bool:
    """Tell whether a section stands under the heading of the one above, or under a part of it."""
    path = above[0].heading_path
    return len(path) > 0 and section[0].heading_path[: len(path)] == path


def _beside(above: _Section, section: _Section) -> bool:
    """Tell whether two sections are parts of the same heading; the top ones are parts of none."""
    path = above[0].heading_path
    return len(path) > 1 and section[0].heading_path[:-1] == path[:-1]


class _Packer:
    """Packs the blocks of a section into passages of about equal size.

    A piece that is too large, or leaves a passage too small, is split.
    """

    def __init__(self, text: str, section: Sequence[Block], sizes: _Sizes) -> None:
        self._text = text
        self._sizes = sizes
        # The pieces that are in no passage yet, each with the depth of its next split.
        self._waiting = deque((block, _INTO_PARAGRAPHS) for block in section)
        self._rest = count(text[section[0].start : section[-1].end])  # tokens that wait
        self._pieces: list[Block] = []  # of the passage that is being packed
        self._size = 0  # its tokens
        self._aim = 0.0  # the tokens that it should have

    def pack(self) -> Iterator[list[Block]]:
        """Yield the pieces of each passage."""
        while self._waiting:
            piece, depth = self._waiting.popleft()
            size = self._size_with(piece)
            too_large = size > self._sizes.largest
            if too_large and depth <= _INTO_WORDS and self._may_split(piece):
                self._waiting.extendleft(reversed(_finer(self._text, piece, depth)))
            elif self._pieces and (too_large or self._is_full(size)):
                self._waiting.appendleft((piece, depth))
                yield self._end(depth)
            else:
                self._take(piece, size)
        yield self._pieces

    def _size_with(self, piece: Block) -> int:
        """Return the tokens of the passage with one more piece."""
        start = self._pieces[-1].end if self._pieces else piece.start
        return self._size + count(self._text[start : piece.end])

    def _may_split(self, piece: Block) -> bool:
        """Tell whether a piece that does not fit is split, not left to the next passage.

        It is where the passage is too small to end before it, or where no passage could hold it.
        A table behind more than headings stays whole as long as a passage can hold it.
        """
        only_headings = all(block.kind == "heading" for block in self._pieces)
        stays_whole = piece.kind == "table" and not only_headings
        if self._size < self._sizes.smallest and not stays_whole:
            return True
        return count(self._text[piece.start : piece.end]) > self._sizes.largest

    def _is_full(self, size: int) -> bool:
        """Tell whether the passage ends before a piece that would bring it to `size` tokens.

        It does where it is nearer to its aim without the piece, but not behind an announcement.
        """
        smallest = self._sizes.smallest
        if self._size < smallest:
            return False
        # What is left must be enough for a passage of its own.
        too_little_left = self._rest < smallest
        if too_little_left and self._size + self._rest <= self._sizes.largest:
            return False
        return self._size + size > 2 * self._aim and not self._ends_with_announcement()

    def _ends_with_announcement(self) -> bool:
        last = self._pieces[-1]
        return announces(self._text[last.start : last.end])

    def _take(self, piece: Block, size: int) -> None:
        """Add a piece to the passage, which has `size` tokens then."""
        if not self._pieces:
            passages = max(1, math.ceil(self._rest / self._sizes.target))
            self._aim = self._rest / passages
        self._pieces.append(piece)
        self._rest -= size - self._size
        self._size = size

    def _end(self, depth: int) -> list[Block]:
        """End the passage and return its pieces.

        An announcement at its end waits at this depth, to go with what it announces,
        where it leaves a passage that is not too small.
        """
        pieces = self._pieces
        if len(pieces) > 1 and self._ends_with_announcement():
            size_before = count(self._text[pieces[0].start : pieces[-2].end])
            if size_before >= self._sizes.smallest:
                self._waiting.appendleft((pieces.pop(), depth))
                self._rest += self._size - size_before
        self._pieces = []
        self._size = 0
        return pieces


def _finer(text: str, piece: Block, depth: int) -> list[tuple[Block, int]]:
    """Return the trimmed parts of a piece, one step finer, with the depth of their next split."""
    parts = []
    for start, end in _spans(text, piece, depth):
        part = Block(
            kind=piece.kind,
            start=start,
            end=end,
            heading_path=piece.heading_path,
            page=piece.page,
        )
        parts.append((part, depth + 1))
    return parts


def _spans(text: str, piece: Block, depth: int) -> list[tuple[int, int]]:
    """Return the spans of a piece's paragraphs, rows, sentences or words."""
    if depth == _INTO_SENTENCES:
        sentences = split(text[piece.start : piece.end])
        return [(piece.start + start, piece.start + end) for start, end in sentences]
    pattern = _pattern(piece, depth)
    if pattern is None:
        return [(piece.start, piece.end)]
    return [match.span() for match in pattern.finditer(text, piece.start, piece.end)]


def _pattern(piece: Block, depth: int) -> re.Pattern[str] | None:
    """Return what the parts of a piece look like; None for one that has no rows."""
    if depth == _INTO_PARAGRAPHS:
        return _PARAGRAPH
    if depth == _INTO_ROWS:
        return _ROWS.get(piece.kind)
    return _WORD

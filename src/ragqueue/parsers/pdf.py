"""Read PDF that holds text, page by page, counted from 1; the bookmarks tell the headings."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import pypdfium2
from msgspec import structs

from ragqueue.errors import UnreadableDocument
from ragqueue.parsers.base import Parser, with_heading
from ragqueue.types import Block, Parsed

_CAUSES = {
    4: "is encrypted and needs a password: save it without one",  # FPDF_ERR_PASSWORD
    5: "is encrypted in an unknown way: save it unencrypted",  # FPDF_ERR_SECURITY
}
# PDFium's sign for a word that was broken at the end of a line; what is no text; spaces at the end
# of a line.
_NOISE = re.compile("[\x02\ufffe]\n?|[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\uffff]|(?<! ) +(?=\n)")
_NUMBER = re.compile(r"\A\s*(?:\d+(?:\.\d+)*\.?|[IVXLC]+\.|[A-Z]\.)\s+")
_BULLET = re.compile(r"[•▪‣◦●○■–-]\s")
# Titles that tools invent.
_FILE_NAME = re.compile(r"untitled|.*\.(?:docx?|odt|rtf|tex|dvi|indd|pptx?|xlsx?|pdf|qxd)\Z", re.I)


class _Bookmark(NamedTuple):
    level: int  # from 0
    title: str


class _Line(NamedTuple):
    body: str  # without the space around it
    start: int  # of the body, in the text
    bookmarks: Sequence[_Bookmark]  # that begin here
    is_heading: bool  # it shows the last of them


class PdfParser(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        _check_marks(data, name)
        try:
            document = pypdfium2.PdfDocument(data)
            pages = [_page_text(page) for page in document]
            bookmarks = _bookmarks(document)
            title = _title(document)
        except pypdfium2.PdfiumError as error:
            damaged = f"is damaged: no PDF reader can open all of it ({error})"
            cause = _CAUSES.get(error.err_code, damaged)
            raise UnreadableDocument(f"{name!r} {cause}") from error
        if not "".join(pages).strip():
            raise UnreadableDocument(
                f"{name!r} has {len(pages)} page(s) but no text: "
                "it may be a scan; run text recognition (OCR) first"
            )
        return Parsed(
            text="\n\n".join(pages),
            blocks=_blocks(pages, bookmarks),
            title=title,
            pages=len(pages),
        )


def _check_marks(data: bytes, name: str) -> None:
    """Raise UnreadableDocument unless the data begin and end as a PDF."""
    if b"%PDF-" not in data[:1024]:
        raise UnreadableDocument(f"{name!r} is not a PDF: its bytes are text or unknown data")
    # Some programs write something behind the end mark.
    if b"%%EOF" not in data.rstrip(b"\x00 \t\r\n")[-4096:]:
        raise UnreadableDocument(
            f"{name!r} is cut off: the end mark of a PDF is missing; give the whole file"
        )


def _page_text(page: Any) -> str:
    lines = page.get_textpage().get_text_range().splitlines()
    return _NOISE.sub("", "\n".join(lines))


def _bookmarks(document: Any) -> Mapping[int, Sequence[_Bookmark]]:
    """Return the bookmarks by the index of the page that they point to."""
    bookmarks = defaultdict[int, list[_Bookmark]](list)
    for bookmark in document.get_toc():
        target = bookmark.get_dest()
        if target is None:
            continue  # one that points nowhere heads nothing
        page_index = target.get_index()
        # Half a character in a bookmark costs a heading, not the document.
        with suppress(UnicodeDecodeError):
            title = _NOISE.sub("", bookmark.get_title())
            bookmarks[page_index].append(_Bookmark(level=bookmark.level, title=title))
    return bookmarks


def _title(document: Any) -> str:
    """Return the title that the file gives, unless it cannot be read or a tool invented it."""
    with suppress(UnicodeDecodeError):
        title = " ".join(_NOISE.sub("", document.get_metadata_value("Title")).split())
        if not _FILE_NAME.match(title):
            return title
    return ""


def _blocks(pages: Sequence[str], bookmarks: Mapping[int, Sequence[_Bookmark]]) -> list[Block]:
    """Return the blocks of all pages, which are parted by an empty line."""
    blocks: list[Block] = []
    outline: dict[int, str] = {}
    page_start = 0
    for index, page in enumerate(pages):
        full_length = _full_length(page)
        previous = ""  # the body of the line before
        for line in _lines(page, page_start, bookmarks.get(index, ())):
            for bookmark in line.bookmarks:
                outline = with_heading(outline, bookmark.level, bookmark.title)
            end = line.start + len(line.body)
            if line.body and previous and _goes_on(blocks[-1], previous, line, full_length):
                blocks[-1] = structs.replace(blocks[-1], end=end)
            elif line.body:
                block = Block(
                    kind="heading" if line.is_heading else "paragraph",
                    start=line.start,
                    end=end,
                    heading_path=tuple(outline.values()),
                    page=index + 1,
                )
                blocks.append(block)
            previous = line.body
        page_start += len(page) + len("\n\n")
    return blocks


def _full_length(page: str) -> int:
    """Return the length that nine tenths of the lines of a page do not exceed."""
    lengths = sorted(map(len, page.split("\n")))
    return lengths[len(lengths) * 9 // 10]


def _goes_on(block: Block, previous: str, line: _Line, full_length: int) -> bool:
    """Return whether a line belongs to the block of the line before it.

    A short line that ends a sentence ends its paragraph, and a list item begins one.
    """
    if line.bookmarks or block.kind != "paragraph" or _BULLET.match(line.body):
        return False
    ends_sentence = previous.endswith((".", "!", "?", ":", "。"))
    return not (ends_sentence and len(previous) < 0.8 * full_length)


def _lines(page: str, page_start: int, bookmarks: Sequence[_Bookmark]) -> Iterator[_Line]:
    """Yield the lines of a page with the bookmarks that begin at each."""
    lines = page.split("\n")
    bare_lines = [_bare(line) for line in lines]
    located = _located(bookmarks, bare_lines)
    line_start = page_start
    for index, line in enumerate(lines):
        here = located.get(index, ())
        indent = len(line) - len(line.lstrip())
        yield _Line(
            body=line.strip(),
            start=line_start + indent,
            bookmarks=here,
            is_heading=bool(here) and bare_lines[index] == _bare(here[-1].title),
        )
        line_start += len(line) + 1


def _located(
    bookmarks: Sequence[_Bookmark], bare_lines: Sequence[str]
) -> Mapping[int, Sequence[_Bookmark]]:
    """Return the bookmarks of a page by the index of the line where each begins.

    One that no line shows begins where the last one was found.
    """
    located = defaultdict[int, list[_Bookmark]](list)
    last = 0
    for bookmark in bookmarks:
        title = _bare(bookmark.title)
        if title in bare_lines[last:]:
            last = bare_lines.index(title, last)
        located[last].append(bookmark)
    return located


def _bare(line: str) -> str:
    """Return the letters of a heading, by which a bookmark is found on its page.

    Without a number in front.
    """
    return re.sub(r"\W+", "", _NUMBER.sub("", line, count=1)).casefold()

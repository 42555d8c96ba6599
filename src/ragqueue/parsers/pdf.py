"""Read PDF: text page by page; the bookmarks tell the headings."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace

import pypdfium2

from ragqueue.errors import UnreadableDocument
from ragqueue.parsers.base import Parser
from ragqueue.parsers.charset import blank
from ragqueue.parsers.outline import Outline
from ragqueue.parsers.table import magic
from ragqueue.types import Block, Parsed

Bookmark = tuple[int, str]  # level, title

_CAUSES = {  # FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY
    4: "is encrypted and needs a password: save it without one",
    5: "is encrypted in a way that cannot be read: save it without encryption",
}
_TAIL = 4096  # bytes at the end that must hold the end mark; some programs write something behind it
_HYPHEN = re.compile("[\x02\ufffe]\n?")  # PDFium's sign for a word that was broken at the end of a line
_NOISE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\uffff]|(?<! ) +(?=\n)")
_NUMBER = re.compile(r"\A(?:\d+(?:\.\d+)*\.?|[IVXLC]+\.|[A-Z]\.)\s+")
_BULLET = re.compile(r"[•▪‣◦●○■–-]\s")
_FILE_NAME = re.compile(r"untitled|.*\.(?:docx?|odt|rtf|tex|dvi|indd|pptx?|xlsx?|pdf|qxd)\Z", re.I)  # titles that tools invent


class PdfParser(Parser):
    """Reads PDF that holds text; page numbers count from 1."""

    media_types = ("application/pdf",)

    def parse(self, data: bytes, name: str) -> Parsed:
        with closing(_opened(data, name)) as document:
            pages = [_page_text(document, number, name) for number in range(len(document))]
            bookmarks, title = _bookmarks(document), _title(document)
        if all(blank(page) for page in pages):
            cause = "it may be a scan; run text recognition (OCR) on it first"
            raise UnreadableDocument(f"{name!r} has {len(pages)} page(s) but no text: {cause}")
        blocks, outline, start = list[Block](), Outline(), 0
        for number, page in enumerate(pages, 1):
            for block in _blocks(page, bookmarks.get(number - 1, ()), outline):
                blocks.append(replace(block, start=start + block.start, end=start + block.end, page=number))
            start += len(page) + 2
        return Parsed("\n\n".join(pages), blocks, title=title, pages=len(pages))


def _opened(data: bytes, name: str) -> pypdfium2.PdfDocument:
    if not data.strip():
        raise UnreadableDocument(f"{name!r} is empty: it holds no text")
    if b"%PDF-" not in data[:1024]:
        raise UnreadableDocument(f"{name!r} is not a PDF: its bytes are {magic(data) or 'text or unknown data'}")
    if b"%%EOF" not in data.rstrip(b"\x00 \t\r\n")[-_TAIL:]:
        raise UnreadableDocument(f"{name!r} is cut off: the end mark of a PDF is missing; give the whole file")
    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        cause = _CAUSES.get(error.err_code, f"is damaged: no PDF reader can open it ({error})")
        raise UnreadableDocument(f"{name!r} {cause}") from error


def _page_text(document: pypdfium2.PdfDocument, number: int, name: str) -> str:
    try:
        with closing(document[number]) as page, closing(page.get_textpage()) as text_page:
            raw: str = text_page.get_text_range()
    except pypdfium2.PdfiumError as error:
        raise UnreadableDocument(f"{name!r} is damaged: page {number + 1} cannot be read ({error})") from error
    return _NOISE.sub("", _HYPHEN.sub("", raw.replace("\r\n", "\n").replace("\r", "\n")))


def _title(document: pypdfium2.PdfDocument) -> str:
    title = ""
    with suppress(UnicodeDecodeError):
        title = " ".join(_NOISE.sub("", document.get_metadata_value("Title")).split())
    return "" if _FILE_NAME.match(title) else title


def _bookmarks(document: pypdfium2.PdfDocument) -> Mapping[int, list[Bookmark]]:
    """Return the bookmarks by page index; those that point nowhere head nothing."""
    found = defaultdict[int, list[Bookmark]](list)
    for bookmark in document.get_toc():
        target = bookmark.get_dest()
        with suppress(UnicodeDecodeError):  # half a character in a bookmark costs a heading, not the document
            if target is not None and (page := target.get_index()) is not None:
                found[page].append((bookmark.level, _NOISE.sub("", bookmark.get_title())))
    return found


def _blocks(page: str, bookmarks: Sequence[Bookmark], outline: Outline) -> list[Block]:
    """Return headings and paragraphs of a page, at their places in it."""
    blocks, lines, at, previous = list[Block](), page.split("\n"), 0, ""
    located = _located(lines, bookmarks)
    full = sorted(map(len, lines))[len(lines) * 9 // 10]  # characters of a full line
    for index, line in enumerate(lines):
        body, here = line.strip(), located.get(index, ())
        start = at + len(line) - len(line.lstrip())
        for bookmark in here:
            outline.enter(*bookmark)
        if here and _same(body, here[-1][1]):
            blocks.append(Block("heading", start, start + len(body), outline.path))
        elif body and previous and not here and blocks[-1].kind == "paragraph" and not _breaks(previous, body, full):
            blocks[-1] = replace(blocks[-1], end=start + len(body))
        elif body:
            blocks.append(Block("paragraph", start, start + len(body), outline.path))
        at, previous = at + len(line) + 1, body
    return blocks


def _located(lines: Sequence[str], bookmarks: Sequence[Bookmark]) -> Mapping[int, list[Bookmark]]:
    """Return the bookmarks by the line that shows them; one that no line shows begins where the last one was found."""
    found, line = defaultdict[int, list[Bookmark]](list), 0
    for bookmark in bookmarks:
        line = next((index for index in range(line, len(lines)) if _same(lines[index], bookmark[1])), line)
        found[line].append(bookmark)
    return found


def _same(line: str, title: str) -> bool:
    """Say whether a line is a heading as the bookmark has it, perhaps with a number in front."""
    if len(line) > 2 * len(title) + 20:
        return False
    whole, bare, wanted = (re.sub(r"\W+", "", text).casefold() for text in (line, _NUMBER.sub("", line, count=1), title))
    return bool(wanted) and wanted in (whole, bare)


def _breaks(previous: str, line: str, full: int) -> bool:
    """Say whether a new paragraph begins: the line before ends a sentence and is short, or the line is a list item."""
    return bool(_BULLET.match(line)) or (previous.endswith((".", "!", "?", ":", "。")) and len(previous) < 0.8 * full)

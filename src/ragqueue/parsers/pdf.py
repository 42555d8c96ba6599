"""Read PDF: text page by page; the bookmarks tell the headings."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

import pypdfium2

from ragqueue.errors import UnreadableDocument
from ragqueue.parsers.base import Parser
from ragqueue.parsers.charset import blank
from ragqueue.parsers.outline import Kind, Outline
from ragqueue.parsers.table import magic
from ragqueue.types import Block, Parsed

Bookmark = tuple[int, str]  # level, title

_NEEDS_PASSWORD, _UNKNOWN_SECURITY = 4, 5  # FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY
_TAIL = 4096  # bytes at the end that must hold the end mark; some programs write something behind it
_HYPHEN = re.compile("[\x02\ufffe]\n?")  # PDFium's sign for a word that was broken at the end of a line
_NOISE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\uffff]|(?<! ) +(?=\n)")
_NUMBER = re.compile(r"(?:\d+(?:\.\d+)*\.?|[IVXLC]+\.|[A-Z]\.)\s+")
_BULLET = re.compile(r"[•▪‣◦●○■–-]\s")
_FILE_NAME = re.compile(r"untitled|.*\.(?:docx?|odt|rtf|tex|dvi|indd|pptx?|xlsx?|pdf|qxd)\Z", re.I)  # titles that tools invent


class PdfParser(Parser):
    """Reads PDF that holds text; page numbers count from 1."""

    media_types = ("application/pdf",)

    def parse(self, data: bytes, name: str) -> Parsed:
        _check(data, name)
        try:
            document = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError as error:
            raise UnreadableDocument(_cause(error, name)) from error
        with closing(document):
            pages = [_page_text(document, number, name) for number in range(len(document))]
            bookmarks, title = _bookmarks(document), _title(document)
        if all(blank(page) for page in pages):
            raise UnreadableDocument(
                f"{name!r} has {len(pages)} page(s) but no text: it may be a scan; run text recognition (OCR) on it first"
            )
        blocks, outline, start = list[Block](), Outline(), 0
        for index, page in enumerate(pages):
            for kind, begin, end in _pieces(page, bookmarks.get(index, ()), outline):
                blocks.append(Block(kind, start + begin, start + end, outline.path, page=index + 1))
            start += len(page) + 2
        return Parsed("\n\n".join(pages), blocks, title=title, pages=len(pages))


def _check(data: bytes, name: str) -> None:
    if not data.strip():
        raise UnreadableDocument(f"{name!r} is empty: it holds no text")
    if b"%PDF-" not in data[:1024]:
        raise UnreadableDocument(f"{name!r} is not a PDF: its bytes are {magic(data) or 'text or unknown data'}")
    if b"%%EOF" not in data.rstrip(b"\x00 \t\r\n")[-_TAIL:]:
        raise UnreadableDocument(f"{name!r} is cut off: the end mark of a PDF is missing; give the whole file")


def _cause(error: pypdfium2.PdfiumError, name: str) -> str:
    if error.err_code == _NEEDS_PASSWORD:
        return f"{name!r} is encrypted and needs a password: save it without one"
    if error.err_code == _UNKNOWN_SECURITY:
        return f"{name!r} is encrypted in a way that cannot be read: save it without encryption"
    return f"{name!r} is damaged: no PDF reader can open it ({error})"


def _page_text(document: pypdfium2.PdfDocument, number: int, name: str) -> str:
    try:
        with closing(document[number]) as page, closing(page.get_textpage()) as text_page:
            raw: str = text_page.get_text_range()
    except pypdfium2.PdfiumError as error:
        raise UnreadableDocument(f"{name!r} is damaged: page {number + 1} cannot be read ({error})") from error
    return _NOISE.sub("", _HYPHEN.sub("", raw.replace("\r\n", "\n").replace("\r", "\n")))


def _title(document: pypdfium2.PdfDocument) -> str:
    try:
        title = " ".join(_NOISE.sub("", document.get_metadata_value("Title")).split())
    except UnicodeDecodeError:
        return ""
    return "" if _FILE_NAME.match(title) else title


def _bookmarks(document: pypdfium2.PdfDocument) -> Mapping[int, list[Bookmark]]:
    """Return the bookmarks by page index; those that point nowhere head nothing."""
    found: dict[int, list[Bookmark]] = {}
    for bookmark in document.get_toc():
        target = bookmark.get_dest()
        page = target.get_index() if target is not None else None
        try:
            if page is not None:
                found.setdefault(page, []).append((bookmark.level, _NOISE.sub("", bookmark.get_title())))
        except UnicodeDecodeError:
            continue  # half a character in a bookmark costs a heading, not the document
    return found


def _pieces(page: str, bookmarks: Sequence[Bookmark], outline: Outline) -> Iterator[tuple[Kind, int, int]]:
    """Yield headings and paragraphs of a page; each heading enters the outline just before its piece is yielded."""
    lines = page.split("\n")
    located = _located(lines, bookmarks)
    full = sorted(map(len, lines))[len(lines) * 9 // 10]  # characters of a full line
    at, first, last = 0, -1, -1  # first and last: of the paragraph that is open
    for index, line in enumerate(lines):
        body, here = line.strip(), located.get(index, ())
        if first >= 0 and (not body or here or _breaks(lines[index - 1].strip(), body, full)):
            yield "paragraph", first, last
            first = -1
        for bookmark in here:
            outline.enter(*bookmark)
        begin = at + len(line) - len(line.lstrip())
        at += len(line) + 1
        if here and _same(body, here[-1][1]):
            yield "heading", begin, begin + len(body)
        elif body:
            first, last = (begin if first < 0 else first), begin + len(body)
    if first >= 0:
        yield "paragraph", first, last


def _located(lines: Sequence[str], bookmarks: Sequence[Bookmark]) -> Mapping[int, list[Bookmark]]:
    """Return the bookmarks by the line that shows them; one that no line shows begins where the last one was found."""
    found: dict[int, list[Bookmark]] = {}
    line = 0
    for bookmark in bookmarks:
        line = next((index for index in range(line, len(lines)) if _same(lines[index], bookmark[1])), line)
        found.setdefault(line, []).append(bookmark)
    return found


def _same(line: str, title: str) -> bool:
    """Say whether a line is a heading as the bookmark has it, perhaps with a number in front."""
    if len(line) > 2 * len(title) + 20:
        return False
    wanted = _letters(title)
    return bool(wanted) and wanted in (_letters(line), _letters(_NUMBER.sub("", line.lstrip(), count=1)))


def _letters(text: str) -> str:
    return re.sub(r"\W+", "", text).casefold()


def _breaks(previous: str, line: str, full: int) -> bool:
    """Say whether a new paragraph begins: the line before ends a sentence and is short, or the line is a list item."""
    return bool(_BULLET.match(line)) or (previous.endswith((".", "!", "?", ":", "。")) and len(previous) < 0.8 * full)

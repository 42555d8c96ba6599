"""Read PDF that holds text, page by page, counted from 1; the bookmarks tell the headings."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress

import pypdfium2

from ragqueue.errors import UnreadableDocument
from ragqueue.parsers.base import Parser, opened
from ragqueue.types import Block, Kind, Parsed

# FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY
_CAUSES = {
    4: "is encrypted and needs a password: save it without one",
    5: "is encrypted in an unknown way: save it unencrypted",
}
# PDFium's sign for a word that was broken at the end of a line; what is no text; spaces at the end of a line
_NOISE = re.compile("[\x02\ufffe]\n?|[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\uffff]|(?<! ) +(?=\n)")
_NUMBER = re.compile(r"\A\s*(?:\d+(?:\.\d+)*\.?|[IVXLC]+\.|[A-Z]\.)\s+")
_BULLET = re.compile(r"[•▪‣◦●○■–-]\s")
_FILE_NAME = re.compile(
    r"untitled|.*\.(?:docx?|odt|rtf|tex|dvi|indd|pptx?|xlsx?|pdf|qxd)\Z", re.I
)  # titles that tools invent


class PdfParser(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        if b"%PDF-" not in data[:1024]:
            raise UnreadableDocument(f"{name!r} is not a PDF: its bytes are text or unknown data")
        if (
            b"%%EOF" not in data.rstrip(b"\x00 \t\r\n")[-4096:]
        ):  # some programs write something behind it
            raise UnreadableDocument(
                f"{name!r} is cut off: the end mark of a PDF is missing; give the whole file"
            )
        bookmarks, title = (
            defaultdict[int, list[tuple[int, str]]](list),
            "",
        )  # (level, title) by page
        try:
            document = pypdfium2.PdfDocument(data)
            pages = [
                _NOISE.sub("", "\n".join(page.get_textpage().get_text_range().splitlines()))
                for page in document
            ]
            for bookmark in document.get_toc():
                with suppress(
                    UnicodeDecodeError
                ):  # half a character in a bookmark costs a heading, not the document
                    if (
                        target := bookmark.get_dest()
                    ) is not None:  # one that points nowhere heads nothing
                        bookmarks[target.get_index()].append(
                            (bookmark.level, _NOISE.sub("", bookmark.get_title()))
                        )
            with suppress(UnicodeDecodeError):
                title = " ".join(_NOISE.sub("", document.get_metadata_value("Title")).split())
        except pypdfium2.PdfiumError as error:
            cause = _CAUSES.get(
                error.err_code, f"is damaged: no PDF reader can open all of it ({error})"
            )
            raise UnreadableDocument(f"{name!r} {cause}") from error
        if not "".join(pages).strip():
            raise UnreadableDocument(
                f"{name!r} has {len(pages)} page(s) but no text: it may be a scan; run text recognition (OCR) first"
            )
        return Parsed(
            "\n\n".join(pages),
            _blocks(pages, bookmarks),
            "" if _FILE_NAME.match(title) else title,
            len(pages),
        )


def _blocks(
    pages: Sequence[str], bookmarks: Mapping[int, Sequence[tuple[int, str]]]
) -> list[Block]:
    blocks, outline, at = list[Block](), dict[int, str](), 0
    for number, page in enumerate(pages):
        lines, previous = page.split("\n"), ""
        full = sorted(map(len, lines))[len(lines) * 9 // 10]
        bare, located, last = (
            list(map(_bare, lines)),
            defaultdict[int, list[tuple[int, str]]](list),
            0,
        )
        for bookmark in bookmarks.get(
            number, ()
        ):  # one that no line shows begins where the last one was found
            if (title := _bare(bookmark[1])) in bare[last:]:
                last = bare.index(title, last)
            located[last].append(bookmark)
        for index, line in enumerate(lines):
            body, here, start = (
                line.strip(),
                located.get(index),
                at + len(line) - len(line.lstrip()),
            )
            for bookmark in here or ():
                outline = opened(outline, *bookmark)
            # A short line that ends a sentence ends its paragraph, and a list item begins one.
            ended = _BULLET.match(body) or (
                previous.endswith((".", "!", "?", ":", "。")) and len(previous) < 0.8 * full
            )
            if body and previous and not (here or ended) and blocks[-1].kind == "paragraph":
                blocks[-1] = blocks[-1]._replace(end=start + len(body))
            elif body:
                kind: Kind = (
                    "heading" if here and bare[index] == _bare(here[-1][1]) else "paragraph"
                )
                blocks.append(
                    Block(kind, start, start + len(body), tuple(outline.values()), number + 1)
                )
            at, previous = at + len(line) + 1, body
        at += 1
    return blocks


def _bare(line: str) -> str:
    """Return the letters of a heading, by which a bookmark is found on its page: without a number in front."""
    return re.sub(r"\W+", "", _NUMBER.sub("", line, count=1)).casefold()

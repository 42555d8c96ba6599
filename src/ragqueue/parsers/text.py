"""Turn the bytes of a text file into text, or say why they are none; plain text itself is paragraphs between empty lines."""

import codecs
import re
from contextlib import suppress

from ragqueue.errors import UnreadableDocument
from ragqueue.parsers.base import Parser
from ragqueue.parsers.table import magic
from ragqueue.types import Block, Parsed

_BOMS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"), (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
_META = re.compile(rb"""(?:<meta[^>]{0,200}?charset\s*=\s*["']?\s*|<\?xml[^>]{0,100}?encoding\s*=\s*["'])(?!utf)([\w.:-]{2,40})""", re.I)
_CONTROL = re.compile("[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f\ufffe\uffff]")  # not \x1b: logs with colours are text
# A text that has few characters beyond ASCII, and hardly others than these, is in cp1252: the guess takes French for Lithuanian.
_WESTERN = frozenset("äöüßÄÖÜéèêëàâçñáíóúãåæøôîïùœÉÈÀÇÑÁÍÓÚÅÆØŒ¿¡«»“”„‘’–—…€°§£©®·ºª´•½¼²\xa0")
_GUESS_FROM = 200_000  # bytes that the guess looks at: more makes it slow, not better
_PARAGRAPH = re.compile(r"\S(?:.*\S)?(?:[^\S\n]*\n.*\S)*+")  # possessive: a log is one paragraph of a million lines


class TextParser(Parser):
    """Reads plain text; knows no headings."""

    def parse(self, data: bytes, name: str) -> Parsed:
        text = decode(data, name)
        return Parsed(text, [Block("paragraph", *match.span()) for match in _PARAGRAPH.finditer(text)])


def decode(data: bytes, name: str, *, markup: bool = False) -> str:
    """Return the text with `\\n` line ends and without byte order mark; `markup` lets a <meta charset> speak. Raises UnreadableDocument."""
    if found := magic(data):
        raise UnreadableDocument(f"{name!r} is not text: its bytes are {found}")
    text = _decoded(data, name, markup).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if (at := text.find("\x00")) >= 0:
        where = f"it has a NUL byte at position {at}; it is binary data, or UTF-16 without its byte order mark"
        raise UnreadableDocument(f"{name!r} is not text: {where}")
    if len(_CONTROL.findall(text)) * 50 > len(text):
        raise UnreadableDocument(f"{name!r} is not text: too many of its characters are control characters; it is binary data")
    return text


def _decoded(data: bytes, name: str, markup: bool) -> str:
    mark, charset = next(((mark, charset) for mark, charset in _BOMS if data.startswith(mark)), (b"", "utf-8"))
    if not mark and b"\x00" in data:
        return data.decode("latin-1")  # to be refused with the position
    try:
        return data[len(mark) :].decode(charset)
    except UnicodeDecodeError as error:
        text = data.decode("utf-8", "replace")
        few = sum(character > "\x7f" for character in text) >= 21 * text.count("\ufffd")  # bad bytes: else it is in another charset
        if mark or (few and error.reason == "unexpected end of data"):
            where = f"{error.reason} at byte {error.start}; give the whole file"
            raise UnreadableDocument(f"{name!r} begins as {charset.upper()} but is damaged or cut off: {where}") from error
        if few:
            return text
    if markup and (declared := _META.search(data[:4096])):
        with suppress(LookupError, UnicodeError):  # an unknown or a lying charset: the guess looks at the bytes
            text = data.decode(declared[1].decode("ascii", "replace"))
            text.encode()  # "unicode_escape" and its like can make halves of characters
            return text
    return _guessed(data, name)


def _guessed(data: bytes, name: str) -> str:
    western = data.decode("cp1252", "replace")
    marked = [character for character in western if character > "\x7f"]
    if len(marked) * 4 < len(western) and sum(character in _WESTERN for character in marked) * 10 >= 9 * len(marked):
        return western
    from charset_normalizer import from_bytes  # 25 ms to import, and most texts need none of it

    best = from_bytes(data[:_GUESS_FROM]).best()
    if best is None:
        raise UnreadableDocument(f"{name!r} is not text in any charset that can be recognised: save it as UTF-8")
    return data.decode(best.encoding, "replace")

"""Turn the bytes of a text file into text, or say why they are none."""

import codecs
import re

from ragqueue.errors import UnreadableDocument
from ragqueue.parsers.table import magic

_BOMS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"), (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
_META = re.compile(rb"""(?:<meta[^>]{0,200}?charset\s*=\s*["']?\s*|<\?xml[^>]{0,100}?encoding\s*=\s*["'])([\w.:-]{2,40})""", re.I)
_CONTROL = re.compile("[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f\ufffe\uffff]")  # not \x1b: logs with colours are text
# A text that has few characters beyond ASCII, and hardly others than these, is in cp1252: the guess takes French for Lithuanian.
_WESTERN = frozenset("äöüßÄÖÜéèêëàâçñáíóúãåæøôîïùœÉÈÀÇÑÁÍÓÚÅÆØŒ¿¡«»“”„‘’–—…€°§£©®·ºª´•½¼²\xa0")
_GUESS_FROM = 200_000  # bytes that the guess looks at: more makes it slow, not better
_VISIBLE = re.compile("[^\\s\ufeff\u200b-\u200f\u2060]")


def decode(data: bytes, name: str, *, markup: bool = False) -> str:
    """Return the text with `\\n` line ends and without byte order mark; `markup` lets a <meta charset> speak.

    Raises UnreadableDocument for binary, truncated, undecodable and empty data.
    """
    if found := magic(data):
        raise UnreadableDocument(f"{name!r} is not text: its bytes are {found}")
    text = _decode(data, name, markup).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if (at := text.find("\x00")) >= 0:
        raise UnreadableDocument(f"{name!r} is not text: it has a NUL character at position {at}; it is binary data or damaged")
    if len(_CONTROL.findall(text)) * 50 > len(text):
        raise UnreadableDocument(f"{name!r} is not text: too many of its characters are control characters; it is binary data")
    if blank(text):
        raise UnreadableDocument(f"{name!r} is empty: it holds no text")
    return text


def blank(text: str) -> bool:
    """Say whether a text has nothing to see."""
    return _VISIBLE.search(text) is None


def _decode(data: bytes, name: str, markup: bool) -> str:
    mark, encoding = next(((mark, encoding) for mark, encoding in _BOMS if data.startswith(mark)), (b"", "utf-8"))
    if not mark and b"\x00" in data:
        where = f"it has a NUL byte at position {data.index(0)}; it is binary data, or UTF-16 without its byte order mark"
        raise UnreadableDocument(f"{name!r} is not text: {where}")
    try:
        return data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        if mark:
            where = f"{error.reason} at byte {error.start}"
            raise UnreadableDocument(f"{name!r} begins as {encoding.upper()} but is damaged or cut off: {where}") from error
        text = data.decode("utf-8", "replace")
        bad = text.count("\ufffd")
        if sum(character > "\x7f" for character in text) < 21 * bad:  # more than a few bad bytes: it is in another charset
            return (_declared(data) if markup else None) or _guessed(data, name)
        if error.reason == "unexpected end of data":
            raise UnreadableDocument(f"{name!r} is cut off: it ends in the middle of a UTF-8 character; give the whole file") from error
        return text


def _declared(data: bytes) -> str | None:
    match = _META.search(data[:4096])
    charset = match[1].decode("ascii", "replace") if match else "utf-8"
    if charset.lower().startswith("utf"):
        return None  # UTF-8 was tried, and UTF-16 could not have been read up to here
    try:
        text = data.decode(charset)
        text.encode()  # "unicode_escape" and its like can make halves of characters
        return text
    except (LookupError, UnicodeError):
        return None  # an unknown or a lying charset: the guess looks at the bytes


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

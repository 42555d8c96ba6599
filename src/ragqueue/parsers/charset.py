"""Turn the bytes of a text file into text, or say why they are none."""

import codecs
import re

from ragqueue.errors import UnreadableDocument
from ragqueue.parsers.table import magic

_BOMS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{2,40})|<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([\w.:-]{2,40})", re.I)
_CONTROL = re.compile("[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f\ufffe\uffff]")  # not \x1b: logs with colours are text
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
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(encoding)
            except UnicodeDecodeError as error:
                raise UnreadableDocument(
                    f"{name!r} begins as {encoding.upper()} but is damaged or cut off: {error.reason} at byte {error.start}"
                ) from error
    try:
        if b"\x00" not in data:
            return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if (text := _nearly_utf8(data, name, error)) is not None:
            return text
    return _wide(data) or (_declared(data) if markup else None) or _guessed(data, name)


def _nearly_utf8(data: bytes, name: str, error: UnicodeDecodeError) -> str | None:
    """Return a UTF-8 text with a few bad bytes, each shown as U+FFFD; None when it is in another charset."""
    text = data.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    good = sum(character > "\x7f" for character in text) - bad
    if good < 20 * bad:
        return None
    if error.reason == "unexpected end of data":
        raise UnreadableDocument(f"{name!r} is cut off: it ends in the middle of a UTF-8 character; give the whole file") from error
    return text


def _wide(data: bytes) -> str | None:
    """Return a text in UTF-16 without a mark: half of the bytes of its spaces and line ends are zero, always the same half."""
    even, odd = data[0::2].count(0), data[1::2].count(0)
    if len(data) % 2 or min(even, odd) * 20 > max(even, odd) or max(even, odd) * 20 < len(data):
        return None
    try:
        return data.decode("utf-16-le" if odd > even else "utf-16-be")
    except UnicodeDecodeError:
        return None


def _declared(data: bytes) -> str | None:
    match = _META.search(data[:4096])
    if match is None:
        return None
    try:
        text = data.decode((match[1] or match[2]).decode("ascii"))
        text.encode()  # "unicode_escape" and its like can make halves of characters
        return text
    except (LookupError, UnicodeError):
        return None  # an unknown or a lying charset: the guess looks at the bytes


def _guessed(data: bytes, name: str) -> str:
    if b"\x00" in data:
        raise UnreadableDocument(f"{name!r} is not text: it has a NUL byte at position {data.index(0)}; it is binary data or damaged")
    from charset_normalizer import from_bytes  # 25 ms to import, and UTF-8 needs none of it

    best = from_bytes(data[:_GUESS_FROM]).best()
    if best is None:
        raise UnreadableDocument(f"{name!r} is not text in any charset that can be recognised: save it as UTF-8")
    return data.decode(best.encoding, "replace")

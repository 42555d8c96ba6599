"""Turn the bytes of a text file into text, or say why they are none.

Plain text itself is paragraphs between empty lines.
"""

import re
from contextlib import suppress

from ragqueue.errors import UnreadableDocument
from ragqueue.parsers.base import Parser
from ragqueue.types import Block, Parsed

# UTF-32 first: its mark begins with that of UTF-16.
_MARKED = ("utf-32-le", "utf-32-be", "utf-8", "utf-16-le", "utf-16-be")
_META = re.compile(
    rb"""(?:<meta[^>]{0,200}?charset\s*=\s*["']?\s*|<\?xml[^>]{0,100}?encoding\s*=\s*["'])"""
    rb"""(?!utf)([\w.:-]{2,40})""",
    re.I,
)
# Not \x1b: logs with colours are text.
_CONTROL = re.compile("[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f\ufffe\uffff]")
# A text that has few characters beyond ASCII, and hardly others than these, is in cp1252: the
# guess takes French for Lithuanian.
_WESTERN = frozenset("äöüßÄÖÜéèêëàâçñáíóúãåæøôîïùœÉÈÀÇÑÁÍÓÚÅÆØŒ¿¡«»“”„‘’–—…€°§£©®·ºª´•½¼²\xa0")
# Possessive: a log is one paragraph of a million lines.
_PARAGRAPH = re.compile(r"\S(?:.*\S)?(?:[^\S\n]*\n.*\S)*+")


class TextParser(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        text = decode(data, name)
        blocks = [
            Block(kind="paragraph", start=match.start(), end=match.end())
            for match in _PARAGRAPH.finditer(text)
        ]
        return Parsed(text=text, blocks=blocks)


def decode(data: bytes, name: str, *, markup: bool = False) -> str:
    r"""Return the text with `\n` line ends and without byte order mark.

    `markup` lets a <meta charset> speak. Raises UnreadableDocument.
    """
    text = _decoded(data, name, markup)
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    nul = text.find("\x00")
    if nul >= 0:
        raise UnreadableDocument(
            f"{name!r} is not text: NUL byte at position {nul}: "
            "binary data, or UTF-16 without its byte order mark"
        )
    if len(_CONTROL.findall(text)) * 50 > len(text):
        raise UnreadableDocument(
            f"{name!r} is not text: too many of its characters are control characters; "
            "it is binary data"
        )
    return text


def _decoded(data: bytes, name: str, markup: bool) -> str:
    """Return the text by its byte order mark, else as UTF-8, else in the charset it must be in.

    Raises UnreadableDocument.
    """
    marked = _marked_charset(data)
    # latin-1: to be refused with the position of the NUL.
    unmarked = "latin-1" if b"\x00" in data else "utf-8"
    try:
        return data.decode(marked or unmarked)
    except UnicodeDecodeError as error:
        text = data.decode("utf-8", "replace")
        is_utf8 = _has_few_bad_bytes(text)
        if marked or (is_utf8 and error.reason == "unexpected end of data"):
            raise UnreadableDocument(
                f"{name!r} begins as {error.encoding.upper()} but is damaged or cut off "
                f"at byte {error.start}: give the whole file"
            ) from error
        if is_utf8:
            return text
        return _guessed(data, name, markup)


def _marked_charset(data: bytes) -> str:
    """Return the charset whose byte order mark the data begin with, or nothing."""
    for charset in _MARKED:
        if data.startswith("\ufeff".encode(charset)):
            return charset
    return ""


def _has_few_bad_bytes(text: str) -> bool:
    """Return whether a text decoded with replacements is UTF-8: else it is in another charset."""
    beyond_ascii = sum(1 for character in text if character > "\x7f")
    return beyond_ascii >= 21 * text.count("\ufffd")


def _guessed(data: bytes, name: str, markup: bool) -> str:
    """Return the text as declared, else as cp1252, else as its bytes suggest.

    Raises UnreadableDocument.
    """
    if markup:
        declared = _as_declared(data)
        if declared is not None:
            return declared
    western = data.decode("cp1252", "replace")
    if _is_western(western):
        return western
    from charset_normalizer import from_bytes  # 25 ms to import, and most texts need none of it

    best = from_bytes(data[:200_000]).best()  # more makes it slow, not better
    if best is None:
        raise UnreadableDocument(
            f"{name!r} is not text in any charset that can be recognised: save it as UTF-8"
        )
    return data.decode(best.encoding, "replace")


def _as_declared(data: bytes) -> str | None:
    """Return the text in the charset that its first 4 KB declare, None when that cannot be."""
    declared = _META.search(data[:4096])
    if not declared:
        return None
    # An unknown or a lying charset: the guess looks at the bytes.
    with suppress(LookupError, UnicodeError):
        text = data.decode(declared[1].decode("ascii", "replace"))
        text.encode()  # "unicode_escape" and its like can make halves of characters
        return text
    return None


def _is_western(text: str) -> bool:
    """Return whether under a quarter is beyond ASCII, and of that nine tenths are _WESTERN."""
    beyond_ascii = [character for character in text if character > "\x7f"]
    if len(beyond_ascii) * 4 >= len(text):
        return False
    usual = sum(1 for character in beyond_ascii if character in _WESTERN)
    return usual * 10 >= 9 * len(beyond_ascii)

"""Turn the bytes of a text file into text, or say why they are none; plain text itself is paragraphs between empty lines."""

import re
from contextlib import suppress

from ragqueue.errors import UnreadableDocument
from ragqueue.parsers.base import Parser
from ragqueue.types import Block, Parsed

_MARKED = (
    "utf-32-le",
    "utf-32-be",
    "utf-8",
    "utf-16-le",
    "utf-16-be",
)  # UTF-32 first: its mark begins with that of UTF-16
_META = re.compile(
    rb"""(?:<meta[^>]{0,200}?charset\s*=\s*["']?\s*|<\?xml[^>]{0,100}?encoding\s*=\s*["'])(?!utf)([\w.:-]{2,40})""",
    re.I,
)
_CONTROL = re.compile(
    "[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f\ufffe\uffff]"
)  # not \x1b: logs with colours are text
# A text that has few characters beyond ASCII, and hardly others than these, is in cp1252: the guess takes French for Lithuanian.
_WESTERN = frozenset("äöüßÄÖÜéèêëàâçñáíóúãåæøôîïùœÉÈÀÇÑÁÍÓÚÅÆØŒ¿¡«»“”„‘’–—…€°§£©®·ºª´•½¼²\xa0")
_PARAGRAPH = re.compile(
    r"\S(?:.*\S)?(?:[^\S\n]*\n.*\S)*+"
)  # possessive: a log is one paragraph of a million lines


class TextParser(Parser):
    def parse(self, data: bytes, name: str) -> Parsed:
        text = decode(data, name)
        return Parsed(
            text, [Block("paragraph", *match.span()) for match in _PARAGRAPH.finditer(text)]
        )


def decode(data: bytes, name: str, *, markup: bool = False) -> str:
    """Return the text with `\\n` line ends and without byte order mark; `markup` lets a <meta charset> speak. Raises UnreadableDocument."""
    marked = next((charset for charset in _MARKED if data.startswith("\ufeff".encode(charset))), "")
    unmarked = "latin-1" if b"\x00" in data else "utf-8"  # latin-1: to be refused with the position
    try:
        text = data.decode(marked or unmarked)
    except UnicodeDecodeError as error:
        text = data.decode("utf-8", "replace")
        few = sum(character > "\x7f" for character in text) >= 21 * text.count(
            "\ufffd"
        )  # bad bytes: else it is in another charset
        if marked or (few and error.reason == "unexpected end of data"):
            begun = f"{name!r} begins as {error.encoding.upper()}"
            raise UnreadableDocument(
                f"{begun} but is damaged or cut off at byte {error.start}: give the whole file"
            ) from error
        if not few:
            text = _guessed(data, name, markup)
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if (at := text.find("\x00")) >= 0:
        raise UnreadableDocument(
            f"{name!r} is not text: NUL byte at position {at}: binary data, or UTF-16 without its byte order mark"
        )
    if len(_CONTROL.findall(text)) * 50 > len(text):
        raise UnreadableDocument(
            f"{name!r} is not text: too many of its characters are control characters; it is binary data"
        )
    return text


def _guessed(data: bytes, name: str, markup: bool) -> str:
    if markup and (declared := _META.search(data[:4096])):
        with suppress(
            LookupError, UnicodeError
        ):  # an unknown or a lying charset: the guess looks at the bytes
            text = data.decode(declared[1].decode("ascii", "replace"))
            text.encode()  # "unicode_escape" and its like can make halves of characters
            return text
    western = data.decode("cp1252", "replace")
    marked = [character for character in western if character > "\x7f"]
    if len(marked) * 4 < len(western) and sum(
        character in _WESTERN for character in marked
    ) * 10 >= 9 * len(marked):
        return western
    from charset_normalizer import from_bytes  # 25 ms to import, and most texts need none of it

    best = from_bytes(data[:200_000]).best()  # more makes it slow, not better
    if best is None:
        raise UnreadableDocument(
            f"{name!r} is not text in any charset that can be recognised: save it as UTF-8"
        )
    return data.decode(best.encoding, "replace")

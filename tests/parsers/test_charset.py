import codecs

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ragqueue.errors import UnreadableDocument
from ragqueue.parsers.text import decode

# A busy machine fails no test.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

FRENCH = 3 * (
    "Le garçon a mangé une pêche près de la forêt, où l'été s'achève déjà. "
    "Ça lui a plu énormément.\n"
)
RUSSIAN = 3 * (
    "Однажды, в студёную зимнюю пору, я из лесу вышел; был сильный мороз. "
    "Гляжу, поднимается медленно в гору.\n"
)


@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_a_text_is_read_in_the_charset_it_was_written_in(charset: str) -> None:
    assert decode(FRENCH.encode(charset), "a.txt") == FRENCH


@pytest.mark.parametrize(
    ("text", "charset"),
    [(FRENCH, "cp1252"), (RUSSIAN, "cp1251"), (RUSSIAN, "koi8-r"), (RUSSIAN, "cp866")],
)
def test_a_text_in_an_older_charset_is_recognised_by_its_bytes(text: str, charset: str) -> None:
    assert decode(text.encode(charset, "replace"), "a.txt") == text


@pytest.mark.parametrize("charset", ["cp1251", "koi8-r"])
def test_a_page_may_declare_its_charset(charset: str) -> None:
    page = f'<html><meta charset="{charset}"><p>{RUSSIAN}'

    assert decode(page.encode(charset), "a.html", markup=True) == page


def test_a_page_that_declares_the_wrong_charset_is_read_as_the_utf8_it_is() -> None:
    page = f'<html><meta charset="windows-1256"><p>{RUSSIAN}'

    assert decode(page.encode(), "a.html", markup=True) == page


@pytest.mark.parametrize("charset", ["utf-16", "no-such-charset", "unicode_escape", "rot13"])
def test_a_page_that_declares_an_impossible_charset_is_guessed(charset: str) -> None:
    page = f'<html><meta charset="{charset}"><p>{FRENCH}'

    assert decode(page.encode("cp1252"), "a.html", markup=True) == page


def test_line_ends_become_newlines_and_the_mark_goes() -> None:
    assert decode(codecs.BOM_UTF8 + b"a\r\nb\rc\n", "a.txt") == "a\nb\nc\n"


def test_one_bad_byte_in_a_long_utf8_text_shows_as_one_replacement() -> None:
    data = RUSSIAN.encode() + b"\xff" + RUSSIAN.encode()

    assert decode(data, "a.txt") == f"{RUSSIAN}\ufffd{RUSSIAN}"


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"text\x00text", "NUL byte at position 4"),
        (
            "text".encode("utf-16-le"),
            "NUL byte at position 1: binary data, or UTF-16 without its byte order mark",
        ),
        (bytes(range(256)) * 20, "NUL byte at position 0"),
        (b"\x01\x02\x03\x04ab", "control characters"),
        (b"\xff\xfeab\x00\xd8", "UTF-16-LE but is damaged or cut off"),
        (RUSSIAN.encode()[:102], "cut off"),
    ],
)
def test_what_is_no_text_is_refused_with_the_cause(data: bytes, cause: str) -> None:
    with pytest.raises(UnreadableDocument, match=rf"'a\.txt'.*{cause}"):
        decode(data, "a.txt")


@UNTIMED
@given(st.binary(max_size=300))
def test_any_bytes_become_clean_text_or_a_refusal(data: bytes) -> None:
    try:
        text = decode(data, "a", markup=True)
    except UnreadableDocument:
        return

    assert "\x00" not in text
    assert "\r" not in text
    assert text.encode().decode() == text

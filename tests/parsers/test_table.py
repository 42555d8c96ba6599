import pkgutil
from pathlib import Path

import pytest

from ragqueue.errors import UnreadableDocument, UnsupportedMedia
from ragqueue.ingestion.files import find_files
from ragqueue.parsers.base import Parser
from ragqueue.parsers.table import EXTENSIONS, PARSERS, media_type_of


@pytest.mark.parametrize(
    ("name", "data", "declared", "expected"),
    [
        ("guide.md", b"# Hello", None, "text/markdown"),
        ("GUIDE.HTM", b"Hello", "application/octet-stream", "text/html"),
        ("folder/v1.2/README", b"Hello", None, "text/plain"),
        ("notes v1.2", b"Hello", None, "text/plain"),
        ("page", b"\xef\xbb\xbf <!DOCTYPE html><p>x", None, "text/html"),
        ("page", b"<?xml version='1.0'?>\n<html>", None, "text/html"),
        ("report", b"%PDF-1.7 ...", None, "application/pdf"),
        ("report.bin", b"%PDF-1.7 ...", "application/octet-stream", "application/pdf"),
        ("module.py", b"print()", "text/plain; charset=utf-8", "text/plain"),
        ("upload", b"# Hello", "text/markdown", "text/markdown"),
    ],
)
def test_extension_then_declaration_then_bytes_tell_the_media_type(
    name: str, data: bytes, declared: str | None, expected: str
) -> None:
    assert media_type_of(name, data, declared) == expected


@pytest.mark.parametrize(
    ("name", "data", "lie"),
    [
        ("guide.md", b"%PDF-1.7 ...", "a PDF"),
        ("letter.txt", b"PK\x03\x04\x14\x00", "ZIP archive or an Office document"),
        ("report.pdf", b"\x89PNG\r\n\x1a\n", "PNG"),
        ("page.html", b"{\\rtf1\\ansi", "RTF"),
    ],
)
def test_a_name_that_contradicts_the_bytes_is_refused(name: str, data: bytes, lie: str) -> None:
    with pytest.raises(UnreadableDocument, match=f"{name}.*{lie}"):
        media_type_of(name, data, None)


@pytest.mark.parametrize(
    ("name", "data", "declared"),
    [
        (
            "letter.docx",
            b"PK\x03\x04",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        ),
        ("letter.docx", b"PK\x03\x04", "text/plain"),
        ("module.py", b"print()", None),
        ("blob", b"ab\x00cd", None),
        ("picture", b"\xff\xd8\xff\xe0", "image/jpeg"),
    ],
)
def test_what_no_parser_reads_is_refused_with_what_is_allowed(
    name: str, data: bytes, declared: str | None
) -> None:
    with pytest.raises(UnsupportedMedia, match=rf"'{name}'.*\.md.*\.pdf"):
        media_type_of(name, data, declared)


def test_every_extension_has_a_parser() -> None:
    assert set(EXTENSIONS.values()) == set(PARSERS)


@pytest.mark.parametrize("media_type", PARSERS)
def test_every_row_names_a_parser(media_type: str) -> None:
    assert isinstance(pkgutil.resolve_name(PARSERS[media_type])(), Parser)


def test_a_folder_gives_the_files_that_a_parser_reads_by_their_extension(tmp_path: Path) -> None:
    for name in ("a.md", "b.PDF", "c.docx", "md", ".md"):
        (tmp_path / name).write_text("x")

    assert [path.name for path in find_files([tmp_path]).values()] == ["a.md", "b.PDF"]

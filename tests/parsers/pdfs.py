"""Make small PDF files byte by byte."""

import zlib
from collections.abc import Sequence

# Opened by no empty password.
PASSWORD = b"/Filter /Standard /V 1 /R 2 /P -4 /O <" + b"41" * 32 + b"> /U <" + b"42" * 32 + b">"


def pdf(
    pages: Sequence[Sequence[str]],
    *,
    bookmarks: Sequence[tuple[str, int]] = (),
    title: str = "",
    encrypted: bool = False,
    contents: bytes | None = None,
) -> bytes:
    """Return a PDF of lines of text by page.

    `bookmarks` are (title, page index), `contents` a deflated page in place of the lines.
    """
    first_page = 5
    first_mark = first_page + 2 * len(pages)
    kids = b" ".join(b"%d 0 R" % (first_page + 2 * n) for n in range(len(pages)))
    outlines = b" /Outlines 4 0 R" if bookmarks else b""
    last_mark = first_mark + len(bookmarks) - 1
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R" + outlines + b" >>",
        2: b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(pages), kids),
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        4: b"<< /Type /Outlines /First %d 0 R /Last %d 0 R >>" % (first_mark, last_mark),
    }
    for n, lines in enumerate(pages):
        number = first_page + 2 * n
        objects[number] = (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] "
            b"/Resources << /Font << /F1 3 0 R >> >> /Contents %d 0 R >>" % (number + 1)
        )
        objects[number + 1] = _stream(lines) if contents is None else _deflated(contents)
    for n, (heading, page) in enumerate(bookmarks):
        following = b" /Next %d 0 R" % (first_mark + n + 1) if n + 1 < len(bookmarks) else b""
        values = (heading.encode("cp1252"), first_page + 2 * page, following)
        objects[first_mark + n] = (
            b"<< /Title (%s) /Parent 4 0 R /Dest [%d 0 R /XYZ 0 842 0]%s >>" % values
        )
    info = first_mark + len(bookmarks)
    objects[info] = b"<< /Title (%s) >>" % title.encode("cp1252")
    objects[info + 1] = b"<< " + PASSWORD + b" >>"
    trailer = b" /Info %d 0 R" % info
    if encrypted:
        trailer += b" /Encrypt %d 0 R /ID [<00> <00>]" % (info + 1)
    return _file(objects, trailer)


def bomb(size: int) -> bytes:
    """Return a few kilobytes that inflate to a page of `size` bytes."""
    packer = zlib.compressobj(9)
    block = b" " * 1_000_000
    once = b"".join(packer.compress(block) for _ in range(size // len(block))) + packer.flush()
    return pdf([["x"]], contents=zlib.compress(once, 9))


def _stream(lines: Sequence[str]) -> bytes:
    shown = b"".join(
        b"(%s) Tj 0 -14 Td\n" % line.encode("cp1252").replace(b"(", b"\\(").replace(b")", b"\\)")
        for line in lines
    )
    body = b"BT /F1 11 Tf 50 790 Td\n" + shown + b"ET"
    return b"<< /Length %d >>\nstream\n%s\nendstream" % (len(body), body)


def _deflated(body: bytes) -> bytes:
    head = b"<< /Length %d /Filter [/FlateDecode /FlateDecode] >>" % len(body)
    return head + b"\nstream\n%s\nendstream" % body


def _file(objects: dict[int, bytes], trailer: bytes) -> bytes:
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number in sorted(objects):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, objects[number])
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, table)
    out += b"trailer\n<< /Size %d /Root 1 0 R%s >>\n" % (size, trailer)
    return bytes(out + b"startxref\n%d\n%%%%EOF\n" % start)

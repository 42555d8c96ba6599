"""Say which media type a file is and which parser reads it."""

import re

from ragqueue.errors import UnreadableDocument, UnsupportedMedia

PARSERS = {  # media type -> "module:Class", imported in the child only
    "text/plain": "ragqueue.parsers.text:TextParser",
    "text/markdown": "ragqueue.parsers.markdown:MarkdownParser",
    "text/html": "ragqueue.parsers.html:HtmlParser",
    "application/pdf": "ragqueue.parsers.pdf:PdfParser",
}  # fmt: skip
EXTENSIONS = {
    ".txt": "text/plain", ".text": "text/plain", ".log": "text/plain", ".rst": "text/plain", ".adoc": "text/plain",
    ".md": "text/markdown", ".markdown": "text/markdown", ".mdown": "text/markdown", ".mkd": "text/markdown",
    ".html": "text/html", ".htm": "text/html", ".xhtml": "text/html", ".pdf": "application/pdf",
}  # fmt: skip
_MAGIC = {  # what is not caught as binary data by its NUL bytes, or deserves a better word
    b"%PDF-": "a PDF", b"PK\x03\x04": "a ZIP archive or an Office document", b"{\\rtf": "an RTF document",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old or encrypted Office document", b"\x1f\x8b": "gzip data", b"\x89PNG\r\n": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture", b"GIF8": "a GIF picture", b"PK\x05\x06": "an empty ZIP archive",
}  # fmt: skip
_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.{0,200}?-->\s*)?<(?:!doctype\s+html|html[\s>])",
    re.I | re.S,
)


def media_type_of(name: str, data: bytes, declared: str | None = None) -> str:
    """Return the media type by extension, else as declared, else by the first kilobyte. Raises UnsupportedMedia, UnreadableDocument."""
    found = next((what for prefix, what in _MAGIC.items() if data.startswith(prefix)), "")
    suffix = re.findall(r"(?:\.[a-z][a-z0-9]{0,9})?\Z", name.lower())[0]
    if by_name := EXTENSIONS.get(suffix):
        if found and (by_name, found) != ("application/pdf", "a PDF"):
            raise UnreadableDocument(
                f"{name!r} is named {suffix}, but its bytes are {found}: give it its right name, or another file"
            )
        return by_name
    if found == "a PDF":
        return "application/pdf"
    stated = (declared or "").partition(";")[0].strip().lower()
    if not found and stated in PARSERS:
        return stated
    if not (found or suffix or b"\x00" in data[:1024]):
        return "text/html" if _HTML.match(data[:1024]) else "text/plain"
    what = found or (
        f"of type {stated!r}" if stated else f"named {suffix}" if suffix else "binary data"
    )
    raise UnsupportedMedia(
        f"no parser reads {name!r}, {what}: allowed are {', '.join(EXTENSIONS)}, or a text declared as text/plain"
    )

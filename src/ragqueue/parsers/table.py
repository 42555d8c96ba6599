"""Say which media type a file is and which parser reads it."""

import re

from ragqueue.errors import UnreadableDocument, UnsupportedMedia

PARSERS = {  # media type -> "module:Class", imported in the child only
    "text/plain": "ragqueue.parsers.text:TextParser",
    "text/markdown": "ragqueue.parsers.markdown:MarkdownParser",
    "text/html": "ragqueue.parsers.html:HtmlParser",
    "application/pdf": "ragqueue.parsers.pdf:PdfParser",
}
EXTENSIONS = {
    ".txt": "text/plain",
    ".text": "text/plain",
    ".log": "text/plain",
    ".rst": "text/plain",
    ".adoc": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".mdown": "text/markdown",
    ".mkd": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "text/html",
    ".pdf": "application/pdf",
}
_PDF = "a PDF"
_MAGIC = {  # what is not caught as binary data by its NUL bytes, or deserves a better word
    b"%PDF-": _PDF,
    b"PK\x03\x04": "a ZIP archive or an Office document",
    b"{\\rtf": "an RTF document",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old or encrypted Office document",
    b"\x1f\x8b": "gzip data",
    b"\x89PNG\r\n": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"PK\x05\x06": "an empty ZIP archive",
}
_SUFFIX = re.compile(r"(?:\.[a-z][a-z0-9]{0,9})?\Z")
_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.{0,200}?-->\s*)?"
    rb"<(?:!doctype\s+html|html[\s>])",
    re.I | re.S,
)


def media_type_of(name: str, data: bytes, declared: str | None = None) -> str:
    """Return the media type by extension, else as declared, else by the first kilobyte.

    Raises UnsupportedMedia, UnreadableDocument.
    """
    content = _recognised(data)
    suffix = _SUFFIX.findall(name.lower())[0]
    by_name = EXTENSIONS.get(suffix)
    if by_name:
        _check_content(name, suffix, content)
        return by_name
    if content == _PDF:
        return "application/pdf"
    stated = (declared or "").partition(";")[0].strip().lower()
    if not content and stated in PARSERS:
        return stated
    is_binary = b"\x00" in data[:1024]
    if not content and not suffix and not is_binary:
        return "text/html" if _HTML.match(data[:1024]) else "text/plain"
    reason = content or _described(stated, suffix)
    raise UnsupportedMedia(
        f"no parser reads {name!r}, {reason}: allowed are {', '.join(EXTENSIONS)}, "
        "or a text declared as text/plain"
    )


def _recognised(data: bytes) -> str:
    """Return in words what the first bytes are a sign of, or nothing."""
    for prefix, content in _MAGIC.items():
        if data.startswith(prefix):
            return content
    return ""


def _check_content(name: str, suffix: str, content: str) -> None:
    """Raise UnreadableDocument when an extension of ours contradicts what the bytes are."""
    is_named_pdf = EXTENSIONS[suffix] == "application/pdf"
    if content and not (is_named_pdf and content == _PDF):
        raise UnreadableDocument(
            f"{name!r} is named {suffix}, but its bytes are {content}: "
            "give it its right name, or another file"
        )


def _described(stated: str, suffix: str) -> str:
    """Return in words what is known of a file whose bytes are no sign of anything."""
    if stated:
        return f"of type {stated!r}"
    if suffix:
        return f"named {suffix}"
    return "binary data"

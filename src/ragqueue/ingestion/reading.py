"""Cut a parsed text into rows, in the parser's child: what takes seconds stops no stream there."""

from ragqueue.ingestion.chunks import chunk
from ragqueue.language.detect import detect
from ragqueue.language.tokens import tokenize
from ragqueue.types import Parsed, Passage, Row


def prepare() -> None:
    """Load what takes half a second and a temporary file, before a child is bounded."""
    detect("words of a language that is long enough to be looked at by its statistics")


def cut(parsed: Parsed, source: str) -> tuple[str, str, list[Row]]:
    """Return (title, language, rows) of a text that came from this source."""
    title = parsed.title or source.replace("\\", "/").rsplit("/", 1)[-1]
    language = detect(parsed.text)
    rows = [row_of(passage, indexed_text(title, passage), language) for passage in chunk(parsed)]
    return title, language, rows


def row_of(passage: Passage, indexed: str, language: str) -> Row:
    """Return a passage with the tokens of the text that is indexed for it."""
    tokens = tokenize(indexed, language)
    return Row(
        start=passage.start,
        end=passage.end,
        heading_path=passage.heading_path,
        page=passage.page,
        tokens=" ".join(tokens),
        length=len(tokens),
    )


def indexed_text(title: str, passage: Passage) -> str:
    """Return what is embedded and tokenised for a passage.

    Title and heading path stand in front, which offsets never include.
    """
    path = " > ".join(part for part in passage.heading_path if part != title)
    return "\n".join(part for part in (title, path, passage.text) if part)

"""Hits as their users see them."""

from typing import Any

from ragqueue.types import Hit


def hit_view(hit: Hit) -> dict[str, Any]:
    """Return a hit as `GET /search` and the sources of an answer show it."""
    chunk = hit.chunk
    cosine = None if hit.cosine is None else round(hit.cosine, 6)
    return {
        "document_id": chunk.document_id,
        "version": chunk.version,
        "start": chunk.start,
        "end": chunk.end,
        "page": chunk.page,
        "title": chunk.title,
        "source": chunk.source,
        "heading_path": list(chunk.heading_path),
        "text": chunk.text,
        "score": round(hit.score, 6),
        "cosine": cosine,
        "keyword": round(hit.keyword, 6),
    }

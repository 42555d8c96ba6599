"""The retriever: finds the chunks that answer a question; never one of another tenant, nor of a deleted document."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ragqueue.types import Hit


class Retriever(ABC):
    @abstractmethod
    async def retrieve(self, tenant: str, question: str, *, collections: Sequence[str] | None = None, limit: int = 10) -> list[Hit]:
        """Return at most `limit` hits, best first, from these collections (None: all of the tenant's). Raises NotFound, Unavailable."""


def hit_view(hit: Hit) -> dict[str, Any]:
    """Return a hit as users see it: where its chunk stands, what it says, and its scores."""
    chunk, cosine = hit.chunk, None if hit.cosine is None else round(hit.cosine, 6)
    return {
        "document_id": chunk.document_id, "version": chunk.version, "start": chunk.start, "end": chunk.end, "page": chunk.page,
        "title": chunk.title, "source": chunk.source, "heading_path": list(chunk.heading_path), "text": chunk.text,
        "score": round(hit.score, 6), "cosine": cosine, "keyword": round(hit.keyword, 6),
    }  # fmt: skip

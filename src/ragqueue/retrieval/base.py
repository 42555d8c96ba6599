"""The retriever: finds the chunks that answer a question. Retrievers wrap retrievers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ragqueue.types import Chunk, Hit


class Retriever(ABC):
    """Finds chunks of one tenant; never one of another, nor of a deleted document."""

    @abstractmethod
    async def retrieve(self, tenant: str, question: str, *, collections: Sequence[str] | None = None, limit: int = 10) -> list[Hit]:
        """Return at most `limit` hits, best first, from these collections (None: from all of the tenant's).

        Raises NotFound for a collection that the tenant does not have, Unavailable when a service cannot be reached.
        """


def chunk_view(chunk: Chunk) -> dict[str, Any]:
    """Return a chunk as users see it: where it stands and what it says."""
    return {
        "document_id": chunk.document_id, "version": chunk.version, "start": chunk.start, "end": chunk.end, "page": chunk.page,
        "title": chunk.title, "source": chunk.source, "heading_path": list(chunk.heading_path), "text": chunk.text,
    }  # fmt: skip


def hit_view(hit: Hit) -> dict[str, Any]:
    """Return a hit as search shows it."""
    cosine = None if hit.cosine is None else round(hit.cosine, 6)
    return chunk_view(hit.chunk) | {"score": round(hit.score, 6), "cosine": cosine, "keyword": round(hit.keyword, 6)}

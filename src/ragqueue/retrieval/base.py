"""The retriever: finds the chunks that answer a question. Retrievers wrap retrievers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from ragqueue.types import Hit


class Retriever(ABC):
    """Finds chunks of one tenant; never one of another, nor of a deleted document."""

    @abstractmethod
    async def retrieve(self, tenant: str, question: str, *, collections: Sequence[str] | None = None, limit: int = 10) -> list[Hit]:
        """Return at most `limit` hits, best first, from these collections (None: from all of the tenant's).

        Raises NotFound for a collection that the tenant does not have, Unavailable when a service cannot be reached.
        """

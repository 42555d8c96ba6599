"""Retrieval by words alone: for installations without an embedder."""

from collections.abc import Sequence

from sqlalchemy import Connection

from ragqueue.records import chunks, keywords
from ragqueue.records.store import Records
from ragqueue.retrieval.base import Retriever
from ragqueue.types import Hit


class KeywordRetriever(Retriever):
    """Ranks by BM25."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def retrieve(self, tenant: str, question: str, *, collections: Sequence[str] | None = None, limit: int = 10) -> list[Hit]:
        return await self._records.read(_retrieve, tenant, question, collections, limit)


def _retrieve(connection: Connection, tenant: str, question: str, names: Sequence[str] | None, limit: int) -> list[Hit]:
    weights = keywords.weigh(connection, tenant, chunks.spaces_of(connection, tenant, names), question)
    found = {one.chunk.number: one for one in keywords.search(connection, weights, limit) if one.bm25}
    loaded = chunks.load(connection, tenant, list(found))
    return [Hit(chunk, found[chunk.number].bm25, keyword=found[chunk.number].part) for chunk in loaded]

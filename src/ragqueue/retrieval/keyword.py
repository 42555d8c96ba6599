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
    found = {chunk.number: chunk for chunk in chunks.features(connection, tenant, keywords.candidates(connection, weights))}
    ranked = dict(keywords.best((number, weights.score(chunk)) for number, chunk in found.items())[:limit])
    return [
        Hit(chunk, ranked[chunk.number], keyword=weights.part(found[chunk.number], ranked[chunk.number]))
        for chunk in chunks.load(connection, tenant, list(ranked))
    ]

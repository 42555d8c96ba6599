"""Search: the passages that are nearest to a question."""

from typing import Any

from fastapi import APIRouter

from ragqueue.api.access import Collection, Parts, Tenant, Words
from ragqueue.api.bodies import Hits, Search, Top
from ragqueue.embedded import check_question
from ragqueue.retrieval.fused import hit_view

router = APIRouter(tags=["search"])


@router.post("/search", response_model=Hits)
async def search(body: Search, tenant: Tenant, parts: Parts) -> dict[str, Any]:
    """Find the passages that are nearest to a question."""
    await check_question(parts, tenant, body.question, body.collection)
    collections = [body.collection] if body.collection else None
    hits = await parts.retriever.retrieve(
        tenant, body.question, collections=collections, limit=body.limit
    )
    return {"hits": [hit_view(hit) for hit in hits]}


@router.get("/search", response_model=Hits)
async def search_by_query(
    tenant: Tenant, parts: Parts, q: Words, collection: Collection | None = None, limit: Top = 10
) -> dict[str, Any]:
    """Find the passages that are nearest to a question."""
    return await search(Search(question=q, collection=collection, limit=limit), tenant, parts)

"""Search: the passages that are nearest to a question."""

from typing import Any

from fastapi import APIRouter

from ragqueue.api.access import Collection, OfTenant, StorableText
from ragqueue.api.bodies import HitLimit, Hits, Search
from ragqueue.retrieval.views import hit_view

router = APIRouter(tags=["search"])


@router.post("/search", response_model=Hits)
async def search(body: Search, desk: OfTenant) -> dict[str, Any]:
    """Find the passages that are nearest to a question."""
    hits = await desk.search(body.question, collection=body.collection, limit=body.limit)
    return {"hits": [hit_view(hit) for hit in hits]}


@router.get("/search", response_model=Hits)
async def search_by_query(
    desk: OfTenant, q: StorableText, collection: Collection | None = None, limit: HitLimit = 10
) -> dict[str, Any]:
    """Find the passages that are nearest to a question."""
    body = Search(question=q, collection=collection, limit=limit)
    return await search(body, desk)

"""Search: the passages that are nearest to a question."""

from typing import Any

from fastapi import APIRouter

from ragqueue.api.access import Collection, OfTenant, Words
from ragqueue.api.bodies import Hits, Search, Top
from ragqueue.retrieval.views import hit_view

router = APIRouter(tags=["search"])


@router.post("/search", response_model=Hits)
async def search(body: Search, desk: OfTenant) -> dict[str, Any]:
    """Find the passages that are nearest to a question."""
    hits = await desk.search(body.question, collection=body.collection, limit=body.limit)
    return {"hits": [hit_view(hit) for hit in hits]}


@router.get("/search", response_model=Hits)
async def search_by_query(
    desk: OfTenant, q: Words, collection: Collection | None = None, limit: Top = 10
) -> dict[str, Any]:
    """Find the passages that are nearest to a question."""
    return await search(Search(question=q, collection=collection, limit=limit), desk)

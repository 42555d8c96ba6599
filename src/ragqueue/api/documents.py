"""Documents: bring them in, read their text, delete them with a receipt; and search in them."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Response, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from ragqueue.api.access import Collection, Limit, Parts, Tenant, Words, owned
from ragqueue.embedded import check_question
from ragqueue.errors import InvalidRequest, NotFound
from ragqueue.records import documents
from ragqueue.retrieval.fused import hit_view
from ragqueue.types import Document

router = APIRouter(tags=["documents"])
_SOURCE = 1000  # characters of a source
_SHOWN = ("id", "collection", "source", "title", "media_type", "version", "language", "chunks", "error", "created_at", "updated_at")
Known = Annotated[Document, owned(documents.get, "document")]
Kept = Annotated[documents.Receipt, owned(documents.receipt, "document", "receipt for ")]
Into = Annotated[Collection, Form(min_length=1)]
Top = Annotated[int, Field(ge=1, le=100)]  # passages of a search
Named = Annotated[Words | None, Form(min_length=1, max_length=_SOURCE)]


class Search(BaseModel):
    model_config = ConfigDict(extra="forbid")
    question: Words = Field(description="What to look for")
    collection: Collection | None = None
    limit: Top = 10


def _view(document: Document) -> dict[str, Any]:
    return {name: getattr(document, name) for name in _SHOWN} | {"status": document.state}


@router.post("/documents", status_code=202)
async def upload(tenant: Tenant, parts: Parts, file: UploadFile, collection: Into = "default", source: Named = None) -> Response:
    """Accept a file durably: 202 with the job that reads it, or 200 when its bytes are known already."""
    if not (name := (source or file.filename or "")[:_SOURCE]):
        raise InvalidRequest("source: name the file, by its filename or by the field `source`")
    declared = file.content_type if file.content_type != "application/octet-stream" else None
    data = await file.read()
    document, job = await parts.ingester.accept(tenant, data, source=name, collection=collection, media_type=declared)
    path = f"/documents/{document.id}"
    links = {"self": path, "text": f"{path}/text"} | ({"job": f"/jobs/{job.id}"} if job else {})
    body = _view(document) | {"job_id": job.id if job else None, "links": links}
    return JSONResponse(body, 202 if job else 200, {"location": path})


@router.get("/documents")
async def list_documents(
    tenant: Tenant, parts: Parts, collection: str | None = None, after: str = "", limit: Limit = 100
) -> dict[str, Any]:
    """List documents in order of id; `next` continues the list."""
    rows = await parts.records.read(partial(documents.listed, tenant=tenant, collection=collection, after=after, limit=limit + 1))
    return {"documents": [_view(row) for row in rows[:limit]], "next": rows[limit - 1].id if len(rows) > limit else None}


@router.get("/documents/{document_id}")
async def show(document: Known) -> dict[str, Any]:
    """Return a document."""
    return _view(document)


@router.get("/documents/{document_id}/text")
async def text(document: Known, parts: Parts, version: Annotated[int | None, Query(ge=1)] = None) -> Response:
    """Return the canonical text of a version: every citation stands in it, at offsets in Unicode code points."""
    stored = await parts.records.read(documents.text_of, document.tenant, document.id, version)
    if stored is None:
        raise NotFound(f"document {document.id!r} has no version {version or document.version}")
    return PlainTextResponse(stored[0], headers={"x-version": str(stored[1]), "x-content-type-options": "nosniff"})


@router.delete("/documents/{document_id}", status_code=202)
async def delete(document: Known, parts: Parts) -> Response:
    """Hide a document at once and erase it with everything that quotes it; the receipt says when."""
    job = await parts.eraser.delete(document.tenant, document.id)
    links = {"receipt": f"/documents/{document.id}/receipt", "job": f"/jobs/{job.id}"}
    return JSONResponse({"id": document.id, "job_id": job.id, "links": links}, 202, {"location": links["receipt"]})


@router.get("/documents/{document_id}/receipt")
async def receipt(kept: Kept) -> dict[str, Any]:
    """Return when a deleted document was hidden and erased, and what went."""
    return kept._asdict()


@router.post("/search")
async def search(body: Search, tenant: Tenant, parts: Parts) -> dict[str, Any]:
    """Find the passages that are nearest to a question."""
    await check_question(parts, tenant, body.question, body.collection)
    collections = [body.collection] if body.collection else None
    hits = await parts.retriever.retrieve(tenant, body.question, collections=collections, limit=body.limit)
    return {"hits": [hit_view(hit) for hit in hits]}


@router.get("/search")
async def search_by_query(tenant: Tenant, parts: Parts, q: Words, collection: Collection | None = None, limit: Top = 10) -> dict[str, Any]:
    """Find the passages that are nearest to a question."""
    return await search(Search(question=q, collection=collection, limit=limit), tenant, parts)

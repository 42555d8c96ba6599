"""Documents: bring them in, read their text, delete them with a receipt; and search in them."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, UploadFile
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ragqueue.api.access import Caller, Parts, Principal, Words
from ragqueue.errors import InvalidRequest, NotFound
from ragqueue.records import documents
from ragqueue.retrieval.base import hit_view
from ragqueue.types import Document
from ragqueue.wiring import Runtime

router = APIRouter(tags=["documents"])
_NAME = 200  # characters of a collection's name
_SOURCE = 1000  # characters of a source


async def document_of(document_id: str, caller: Caller, parts: Parts) -> Document:
    """Return the caller's document. Raises NotFound, also for what is another tenant's."""
    document = await parts.records.read(documents.get, caller.tenant, document_id)
    if document is None:
        raise NotFound(f"there is no document {document_id!r}")
    return document


Known = Annotated[Document, Depends(document_of)]


class Search(BaseModel):
    """The body of `POST /search`."""

    model_config = ConfigDict(extra="forbid")

    question: Words = Field(description="What to look for")
    collection: Words | None = Field(None, max_length=_NAME)
    limit: int = Field(10, ge=1, le=100)


def view(document: Document) -> dict[str, Any]:
    """Return a document as the API shows it."""
    return {
        "id": document.id, "collection": document.collection, "source": document.source, "title": document.title,
        "media_type": document.media_type, "version": document.version, "status": document.state, "language": document.language,
        "chunks": document.chunks, "error": document.error, "created_at": document.created_at, "updated_at": document.updated_at,
    }  # fmt: skip


@router.post("/documents", status_code=202)
async def upload(
    caller: Caller,
    parts: Parts,
    file: UploadFile,
    collection: Annotated[Words, Form(min_length=1, max_length=_NAME)] = "default",
    source: Annotated[Words | None, Form(min_length=1, max_length=_SOURCE)] = None,
) -> Response:
    """Accept a file durably: 202 with the job that reads it, or 200 when its bytes are known already."""
    name = source or file.filename
    if not name:
        raise InvalidRequest("source: name the file, by its filename or by the field `source`")
    declared = file.content_type if file.content_type != "application/octet-stream" else None
    document, job = await parts.ingester.accept(
        caller.tenant, await file.read(), source=name[:_SOURCE], collection=collection, media_type=declared
    )
    links = {"self": f"/documents/{document.id}", "text": f"/documents/{document.id}/text"}
    if job is None:
        return JSONResponse({**view(document), "job_id": None, "links": links}, 200)
    body = {**view(document), "job_id": job.id, "links": {**links, "job": f"/jobs/{job.id}"}}
    return JSONResponse(body, 202, {"location": links["self"]})


@router.get("/documents")
async def listing(
    caller: Caller,
    parts: Parts,
    collection: str | None = None,
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> dict[str, Any]:
    """List documents in order of id; `next` continues the list."""

    def read(connection: Any) -> list[Document]:
        return documents.listed(connection, caller.tenant, collection=collection, after=after, limit=limit + 1)

    found = await parts.records.read(read)
    return {"documents": [view(document) for document in found[:limit]], "next": found[limit - 1].id if len(found) > limit else None}


@router.get("/documents/{document_id}")
async def show(document: Known) -> dict[str, Any]:
    """Return a document."""
    return view(document)


@router.get("/documents/{document_id}/text")
async def text(document: Known, parts: Parts, version: Annotated[int | None, Query(ge=1)] = None) -> Response:
    """Return the canonical text of a version: every citation stands in it, at offsets in Unicode code points."""
    found = await parts.records.read(documents.text_of, document.tenant, document.id, version)
    if found is None:
        raise NotFound(f"document {document.id!r} has no version {version or document.version}")
    return PlainTextResponse(found[0], headers={"x-version": str(found[1]), "x-content-type-options": "nosniff"})


@router.delete("/documents/{document_id}", status_code=202)
async def delete(document: Known, parts: Parts) -> Response:
    """Hide a document at once and erase it with everything that quotes it; the receipt says when."""
    job = await parts.eraser.delete(document.tenant, document.id)
    receipt = f"/documents/{document.id}/receipt"
    return JSONResponse(
        {"id": document.id, "job_id": job.id, "links": {"receipt": receipt, "job": f"/jobs/{job.id}"}}, 202, {"location": receipt}
    )


@router.get("/documents/{document_id}/receipt")
async def receipt(document_id: str, caller: Caller, parts: Parts) -> dict[str, Any]:
    """Return when a deleted document was hidden and erased, and what went."""
    found = await parts.records.read(documents.receipt, caller.tenant, document_id)
    if found is None:
        raise NotFound(f"there is no receipt for {document_id!r}")
    return {"hidden_at": found.hidden_at, "erased_at": found.erased_at, "counts": found.counts}


@router.post("/search")
async def search(body: Search, caller: Caller, parts: Parts) -> dict[str, Any]:
    """Find the passages that are nearest to a question."""
    return await _search(parts, caller, body)


@router.get("/search")
async def search_by_query(
    caller: Caller,
    parts: Parts,
    q: str,
    collection: Annotated[str | None, Query(max_length=_NAME)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> dict[str, Any]:
    """Find the passages that are nearest to a question."""
    return await _search(parts, caller, Search(question=q, collection=collection, limit=limit))


async def _search(parts: Runtime, caller: Principal, body: Search) -> dict[str, Any]:
    most = parts.settings.max_question
    if not body.question.strip() or len(body.question) > most:
        raise InvalidRequest(f"question has {len(body.question):,} characters: 1 to {most:,} are allowed (RAGQUEUE_MAX_QUESTION)")
    if body.collection is not None and await parts.records.read(documents.generation, caller.tenant, body.collection) is None:
        raise NotFound(f"there is no collection {body.collection!r}")
    hits = await parts.retriever.retrieve(
        caller.tenant, body.question, collections=[body.collection] if body.collection else None, limit=body.limit
    )
    return {"hits": [hit_view(hit) for hit in hits]}

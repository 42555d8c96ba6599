"""Documents: bring them in, read their text, delete them with a receipt."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Response, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse

from ragqueue.api.access import Collection, Limit, Parts, Tenant, Words, owned
from ragqueue.api.bodies import Deleted, Documents, DocumentView, ReceiptView, Uploaded
from ragqueue.errors import InvalidRequest, NotFound
from ragqueue.records import documents
from ragqueue.types import Document

router = APIRouter(tags=["documents"])
_SOURCE = 1000  # characters of a source
_SHOWN = (
    "id",
    "collection",
    "source",
    "title",
    "media_type",
    "version",
    "language",
    "chunks",
    "error",
    "created_at",
    "updated_at",
)
Known = Annotated[Document, owned(documents.get, "document")]
Kept = Annotated[documents.Receipt, owned(documents.receipt, "document", "receipt for ")]
After = Annotated[Words, Query(max_length=100)]
Into = Annotated[Collection, Form(min_length=1)]
Version = Annotated[int | None, Query(ge=1, le=2**31)]
Named = Annotated[Words | None, Form(min_length=1, max_length=_SOURCE)]


def _view(document: Document) -> dict[str, Any]:
    return {name: getattr(document, name) for name in _SHOWN} | {"status": document.state}


@router.post(
    "/documents",
    status_code=202,
    response_model=Uploaded,
    responses={200: {"model": Uploaded, "description": "Its bytes are known already"}},
)
async def upload(
    tenant: Tenant,
    parts: Parts,
    file: UploadFile,
    collection: Into = "default",
    source: Named = None,
) -> Response:
    """Accept a file durably: 202 with the job that reads it, or 200 when its bytes are known already."""
    if not (name := (source or file.filename or "")[:_SOURCE]):
        raise InvalidRequest("source: name the file, by its filename or by the field `source`")
    declared = file.content_type if file.content_type != "application/octet-stream" else None
    data = await file.read()
    document, job = await parts.ingester.accept(
        tenant, data, source=name, collection=collection, media_type=declared
    )
    path = f"/documents/{document.id}"
    links = {"self": path, "text": f"{path}/text"} | ({"job": f"/jobs/{job.id}"} if job else {})
    body = _view(document) | {"job_id": job.id if job else None, "links": links}
    return JSONResponse(body, 202 if job else 200, {"location": path})


@router.get("/documents", response_model=Documents)
async def list_documents(
    tenant: Tenant,
    parts: Parts,
    collection: Collection | None = None,
    after: After = "",
    limit: Limit = 100,
) -> dict[str, Any]:
    """List documents in order of id; `next` continues the list."""
    rows = await parts.records.read(
        partial(
            documents.listed, tenant=tenant, collection=collection, after=after, limit=limit + 1
        )
    )
    return {
        "documents": [_view(row) for row in rows[:limit]],
        "next": rows[limit - 1].id if len(rows) > limit else None,
    }


@router.get("/documents/{document_id}", response_model=DocumentView)
async def show_document(document: Known) -> dict[str, Any]:
    """Return a document."""
    return _view(document)


@router.get("/documents/{document_id}/text", response_class=PlainTextResponse)
async def document_text(document: Known, parts: Parts, version: Version = None) -> Response:
    """Return the canonical text of a version: every citation stands in it, at offsets in Unicode code points."""
    stored = await parts.records.read(documents.text_of, document.tenant, document.id, version)
    if stored is None:
        raise NotFound(f"document {document.id!r} has no version {version or document.version}")
    return PlainTextResponse(
        stored[0], headers={"x-version": str(stored[1]), "x-content-type-options": "nosniff"}
    )


@router.delete("/documents/{document_id}", status_code=202, response_model=Deleted)
async def delete_document(document: Known, parts: Parts) -> Response:
    """Hide a document at once and erase it with everything that quotes it; the receipt says when."""
    job = await parts.eraser.delete(document.tenant, document.id)
    links = {"receipt": f"/documents/{document.id}/receipt", "job": f"/jobs/{job.id}"}
    return JSONResponse(
        {"id": document.id, "job_id": job.id, "links": links}, 202, {"location": links["receipt"]}
    )


@router.get("/documents/{document_id}/receipt", response_model=ReceiptView)
async def document_receipt(kept: Kept) -> dict[str, Any]:
    """Return when a deleted document was hidden and erased, and what went."""
    return kept._asdict()

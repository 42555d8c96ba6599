"""Documents: bring them in, read their text, delete them with a receipt."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Response, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse

from ragqueue.api.access import (
    Collection,
    OfTenant,
    OneDocument,
    OneReceipt,
    PageLimit,
    StorableText,
)
from ragqueue.api.bodies import Deleted, Documents, DocumentView, ReceiptView, Uploaded
from ragqueue.errors import InvalidRequest
from ragqueue.types import Document, Job

router = APIRouter(tags=["documents"])
LONGEST_SOURCE = 1000  # characters
UNDECLARED = "application/octet-stream"  # what clients say that do not know a file's type
Cursor = Annotated[StorableText, Query(max_length=100)]
IntoCollection = Annotated[Collection, Form(min_length=1)]
Version = Annotated[int | None, Query(ge=1, le=2**31)]
SourceName = Annotated[StorableText | None, Form(min_length=1, max_length=LONGEST_SOURCE)]


def document_view(document: Document) -> dict[str, Any]:
    """Return a document as `GET /documents` shows it."""
    return {
        "id": document.id,
        "collection": document.collection,
        "source": document.source,
        "title": document.title,
        "media_type": document.media_type,
        "version": document.version,
        "language": document.language,
        "chunks": document.chunks,
        "error": document.error,
        "created_at": document.created_at,
        "updated_at": document.updated_at,
        "status": document.state,
    }


@router.post(
    "/documents",
    status_code=202,
    response_model=Uploaded,
    responses={200: {"model": Uploaded, "description": "Its bytes are known already"}},
    description="Accept a file durably: 202 with the job that reads it, "
    "or 200 when its bytes are known already.",
)
async def upload(
    desk: OfTenant,
    file: UploadFile,
    collection: IntoCollection = "default",
    source: SourceName = None,
) -> Response:
    """Accept a file durably. Raises InvalidRequest for a file without a name."""
    name = (source or file.filename or "")[:LONGEST_SOURCE]
    if not name:
        raise InvalidRequest("source: name the file, by its filename or by the field `source`")
    media_type = file.content_type
    if media_type == UNDECLARED:
        media_type = None
    data = await file.read()
    document, job = await desk.upload(
        data, source=name, collection=collection, media_type=media_type
    )
    return _uploaded(document, job)


def _uploaded(document: Document, job: Job | None) -> Response:
    """Show a document with the job that reads it, or without one."""
    path = f"/documents/{document.id}"
    links = {"self": path, "text": f"{path}/text"}
    body = document_view(document) | {"job_id": None, "links": links}
    status = 200
    if job is not None:
        links["job"] = f"/jobs/{job.id}"
        body["job_id"] = job.id
        status = 202
    return JSONResponse(body, status_code=status, headers={"location": path})


@router.get("/documents", response_model=Documents)
async def list_documents(
    desk: OfTenant, collection: Collection | None = None, after: Cursor = "", limit: PageLimit = 100
) -> dict[str, Any]:
    """List documents in order of id; `next` continues the list."""
    page = await desk.documents(collection=collection, after=after, limit=limit)
    views = [document_view(document) for document in page.rows]
    return {"documents": views, "next": page.next}


@router.get("/documents/{document_id}", response_model=DocumentView)
async def show_document(document: OneDocument) -> dict[str, Any]:
    """Return a document."""
    return document_view(document)


@router.get(
    "/documents/{document_id}/text",
    response_class=PlainTextResponse,
    description="Return the canonical text of a version: every citation stands in it, "
    "at offsets in Unicode code points.",
)
async def document_text(document: OneDocument, desk: OfTenant, version: Version = None) -> Response:
    """Return the canonical text of a version, by default the current one."""
    text, text_version = await desk.text(document, version)
    headers = {"x-version": str(text_version), "x-content-type-options": "nosniff"}
    return PlainTextResponse(text, headers=headers)


@router.delete(
    "/documents/{document_id}",
    status_code=202,
    response_model=Deleted,
    description="Hide a document at once and erase it with everything that quotes it; "
    "the receipt says when.",
)
async def delete_document(document: OneDocument, desk: OfTenant) -> Response:
    """Hide a document at once, and return where the receipt of its erasure will be."""
    job = await desk.delete(document.id)
    receipt = f"/documents/{document.id}/receipt"
    links = {"receipt": receipt, "job": f"/jobs/{job.id}"}
    body = {"id": document.id, "job_id": job.id, "links": links}
    return JSONResponse(body, status_code=202, headers={"location": receipt})


@router.get("/documents/{document_id}/receipt", response_model=ReceiptView)
async def document_receipt(receipt: OneReceipt) -> dict[str, Any]:
    """Return when a deleted document was hidden and erased, and what went."""
    return receipt._asdict()

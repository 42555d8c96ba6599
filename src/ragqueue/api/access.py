"""What a route is given: who asks, the desk that serves him, and texts that a store can hold."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request
from pydantic import AfterValidator, Field

from ragqueue.desk import Desk
from ragqueue.records.erasures import Receipt
from ragqueue.storable import check_storable
from ragqueue.types import Document, Job
from ragqueue.wiring import Runtime


def _from_state(name: str) -> Any:
    """Return a dependency on what the gate has put into the request's state."""

    async def get_value(request: Request) -> Any:
        return getattr(request.state, name)

    return Depends(get_value)


def _storable(text: str) -> str:
    check_storable("it", text)
    return text


TheRuntime = Annotated[Runtime, _from_state("runtime")]
OfTenant = Annotated[Desk, _from_state("desk")]  # whose data the request may touch
# Counts the request as a stream; raises TooManyStreams.
CountStream = Annotated[Callable[[], None], _from_state("count_stream")]
# Whether the caller's key is (still) valid.
Welcome = Annotated[Callable[[], bool], _from_state("welcome")]
StorableText = Annotated[str, AfterValidator(_storable)]
Collection = Annotated[StorableText, Field(max_length=200)]
PageLimit = Annotated[int, Query(ge=1, le=500)]  # rows of a list
PathId = Annotated[StorableText, Path()]


# What is another tenant's is the same 404 as what is not there.
async def _chat(chat_id: PathId, desk: OfTenant) -> Job:
    return await desk.chat(chat_id)


async def _job(job_id: PathId, desk: OfTenant) -> Job:
    return await desk.job(job_id)


async def _document(document_id: PathId, desk: OfTenant) -> Document:
    return await desk.document(document_id)


async def _receipt(document_id: PathId, desk: OfTenant) -> Receipt:
    return await desk.receipt(document_id)


OneChat = Annotated[Job, Depends(_chat)]
OneJob = Annotated[Job, Depends(_job)]
OneDocument = Annotated[Document, Depends(_document)]
OneReceipt = Annotated[Receipt, Depends(_receipt)]

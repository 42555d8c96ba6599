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


def _state(name: str) -> Any:
    async def get(request: Request) -> Any:
        return getattr(request.state, name)  # the gate has put it there

    return Depends(get)


def _storable(text: str) -> str:
    check_storable("it", text)
    return text


Parts = Annotated[Runtime, _state("runtime")]
OfTenant = Annotated[Desk, _state("desk")]  # whose data the request may touch
# Counts the request as a stream; raises TooManyStreams.
Hold = Annotated[Callable[[], None], _state("hold")]
# Whether the caller's key is (still) valid.
Welcome = Annotated[Callable[[], bool], _state("welcome")]
Words = Annotated[str, AfterValidator(_storable)]
Collection = Annotated[Words, Field(max_length=200)]
Limit = Annotated[int, Query(ge=1, le=500)]  # rows of a list


# What is another tenant's is the same 404 as what is not there.
async def _chat(chat_id: Annotated[Words, Path()], desk: OfTenant) -> Job:
    return await desk.chat(chat_id)


async def _job(job_id: Annotated[Words, Path()], desk: OfTenant) -> Job:
    return await desk.job(job_id)


async def _document(document_id: Annotated[Words, Path()], desk: OfTenant) -> Document:
    return await desk.document(document_id)


async def _receipt(document_id: Annotated[Words, Path()], desk: OfTenant) -> Receipt:
    return await desk.receipt(document_id)


OneChat = Annotated[Job, Depends(_chat)]
OneJob = Annotated[Job, Depends(_job)]
OneDocument = Annotated[Document, Depends(_document)]
OneReceipt = Annotated[Receipt, Depends(_receipt)]

"""What a route is given: who asks, the objects of this process, and texts that a store can hold."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request
from pydantic import AfterValidator, Field

from ragqueue.errors import NotFound
from ragqueue.storable import check_storable
from ragqueue.wiring import Runtime


def _state(name: str) -> Any:
    async def get(request: Request) -> Any:
        return getattr(request.state, name)  # the gate has put it there

    return Depends(get)


def _storable(text: str) -> str:
    check_storable("it", text)
    return text


Tenant = Annotated[str, _state("tenant")]  # whose data the request may touch
Caller = Annotated[str, _state("caller")]
Parts = Annotated[Runtime, _state("runtime")]
Hold = Annotated[
    Callable[[], None], _state("hold")
]  # counts the request as a stream; raises TooManyStreams
Welcome = Annotated[
    Callable[[], bool], _state("welcome")
]  # whether the caller's key is (still) valid
Words = Annotated[str, AfterValidator(_storable)]
Collection = Annotated[Words, Field(max_length=200)]
Limit = Annotated[int, Query(ge=1, le=500)]  # rows of a list


def owned(read: Callable[..., Any], what: str, part: str = "") -> Any:
    """Return the dependency that gives the tenant's chat, job or document (or a part of it); what is another tenant's is the same 404."""

    async def get(
        thing_id: Annotated[Words, Path(alias=f"{what}_id")], tenant: Tenant, parts: Parts
    ) -> Any:
        thing = await parts.records.read(read, tenant, thing_id)
        if thing is None or (what == "chat" and thing.kind != "chat"):
            raise NotFound(f"there is no {part}{what} {thing_id!r}")
        return thing

    return Depends(get)

"""What a route is given: who asks, the objects of this process, and texts that a store can hold."""

from typing import Annotated, Any, NamedTuple, TypeVar

from fastapi import Depends, Query, Request
from pydantic import AfterValidator, Field

from ragqueue.errors import InvalidRequest, NotFound
from ragqueue.records import documents
from ragqueue.wiring import Runtime

T = TypeVar("T")


class Principal(NamedTuple):
    """Who asks, and whose data that may touch."""

    tenant: str
    caller: str


def _encodable(text: str) -> str:
    """Refuse what no store can hold: half of a surrogate pair, a NUL."""
    if "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("it holds a NUL or half of a surrogate pair, which is no text")
    return text


def _state(name: str) -> Any:
    async def get(request: Request) -> Any:
        return getattr(request.state, name)  # the gate has put it there

    return Depends(get)


EncodableText = AfterValidator(_encodable)
Words = Annotated[str, EncodableText]
Collection = Annotated[str, Field(max_length=200), EncodableText]
Limit = Annotated[int, Query(ge=1, le=500)]  # rows of a list
Caller = Annotated[Principal, _state("principal")]
Parts = Annotated[Runtime, _state("runtime")]


def found(thing: T | None, what: str) -> T:
    """Return the thing. Raises NotFound when there is none, or none that the caller may see."""
    if thing is None:
        raise NotFound(f"there is no {what}")
    return thing


async def check_question(parts: Runtime, tenant: str, question: str, collection: str | None) -> None:
    """Raise InvalidRequest for an empty or too long question, NotFound for a collection that the tenant does not have."""
    most = parts.settings.max_question
    if not question.strip() or len(question) > most:
        raise InvalidRequest(f"question has {len(question):,} characters: 1 to {most:,} are allowed (RAGQUEUE_MAX_QUESTION)")
    if collection is not None:
        found(await parts.records.read(documents.generation, tenant, collection), f"collection {collection!r}")

"""The JSON that routes take and give, for `/openapi.json`.

A client that is generated from it works.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ragqueue.api.access import Collection, StorableText
from ragqueue.desk import MOST_HITS, MOST_PASSAGES

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
Label = Annotated[StorableText, Field(max_length=64)]
Value = Annotated[StorableText, Field(max_length=512)]
HitLimit = Annotated[int, Field(ge=1, le=MOST_HITS)]  # passages of a search


class RequestBody(BaseModel):
    """A body that a caller sends: a name that nobody knows is a mistake."""

    model_config = ConfigDict(extra="forbid")


class Question(RequestBody):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"question": "How do I declare a query parameter?"}]},
    )
    question: StorableText = Field(description="What to answer, in plain words")
    collection: Collection | None = Field(
        None, description="Only documents of this collection; by default all of yours"
    )
    limit: int | None = Field(
        None, ge=1, le=MOST_PASSAGES, description="Most passages that the answer is written from"
    )
    model: str | None = Field(
        None, description="The model that must answer: the one that is configured"
    )
    metadata: dict[Label, Value] | None = Field(
        None, max_length=16, description="Up to 16 short texts of yours, given back with the answer"
    )


class Search(RequestBody):
    question: StorableText = Field(description="What to look for")
    collection: Collection | None = None
    limit: HitLimit = 10


class Failure(BaseModel):
    code: str
    message: str


class OpenAIFailure(BaseModel):
    message: str
    type: str
    code: str
    param: str | None


class Problem(BaseModel):
    """An RFC 9457 problem document; `error` is the envelope that OpenAI's clients read."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    error: OpenAIFailure


class CitationView(BaseModel):
    """A quote, and where it stands in a version of a document."""

    model_config = ConfigDict(
        json_schema_extra={
            "description": "A quote that stands at `text[start:end]` of the document's version; "
            "offsets in Unicode code points."
        }
    )
    n: int
    document_id: str
    version: int
    start: int
    end: int
    page: int | None
    quote: str
    supported: bool


class HitView(BaseModel):
    document_id: str
    version: int
    start: int
    end: int
    page: int | None
    title: str
    source: str
    heading_path: list[str]
    text: str
    score: float
    cosine: float | None
    keyword: float


class Source(HitView):
    n: int
    chunk: int


class AnswerView(BaseModel):
    text: str
    citations: list[CitationView]
    invalid_markers: list[int] = []
    grounding: Literal["grounded", "partial", "weak", "uncited", "abstained"] | None = None
    nearest: list[Source] = []
    usage: dict[str, int] = {}
    timings: dict[str, float] = {}


class ChatView(BaseModel):
    id: str
    status: Status
    question: str
    answer: AnswerView | None
    error: Failure | None
    attempt: int
    created_at: float
    ended_at: float | None
    metadata: dict[str, str]


class ChatLinks(BaseModel):
    self: str
    events: str
    cancel: str


class Accepted(BaseModel):
    id: str
    status: Status
    links: ChatLinks


class JobView(BaseModel):
    id: str
    kind: str
    lane: str
    status: Status
    attempt: int
    tries: int
    deaths: int
    created_at: float
    started_at: float | None
    ended_at: float | None
    run_at: float
    deadline_at: float
    result: dict[str, Any] | None
    retry_of: str | None
    error: Failure | None
    document_id: str | None


class Jobs(BaseModel):
    jobs: list[JobView]
    next: str | None = Field(description="Given as `after`, it continues the list")


class DocumentView(BaseModel):
    id: str
    collection: str
    source: str
    title: str
    media_type: str
    version: int
    language: str
    chunks: int
    error: str | None
    created_at: float
    updated_at: float
    status: Literal["pending", "ready", "failed"]


class Documents(BaseModel):
    documents: list[DocumentView]
    next: str | None = Field(description="Given as `after`, it continues the list")


class UploadLinks(BaseModel):
    self: str
    text: str
    job: str | None = None


class Uploaded(DocumentView):
    job_id: str | None = Field(description="The job that reads it; null when its bytes are known")
    links: UploadLinks


class DeleteLinks(BaseModel):
    receipt: str
    job: str


class Deleted(BaseModel):
    id: str
    job_id: str
    links: DeleteLinks


class ReceiptView(BaseModel):
    hidden_at: float
    erased_at: float | None
    counts: dict[str, int]


class Hits(BaseModel):
    hits: list[HitView]


class Alive(BaseModel):
    status: Literal["alive"]


class Ready(BaseModel):
    status: Literal["ready", "not ready"]
    checks: dict[str, str]
    workers: int
    note: str | None = None

"""The tables that tests write rows into by themselves, as the migrations make them."""

from sqlalchemy import JSON, Boolean, Column, Integer, MetaData, Table

METADATA = MetaData()


def table(name: str, *columns: Column | str) -> Table:
    """Return a table; a column that is a name alone holds what the driver gives."""
    made = [column if isinstance(column, Column) else Column(column) for column in columns]
    return Table(name, METADATA, *made)


collections = table("collections", "tenant", "name", "generation", "created_at")
documents = table(
    "documents",
    *("tenant", "id", "collection", "source", "media_type", "title", "version", "state"),
    *("sha256", "language", "chunks", "error", "created_at", "updated_at", "hidden_at"),
    *("erased_at", Column("counts", JSON), "erasure", "cleared_at", "reading"),
)
uploads = table("uploads", "tenant", "id", "document_id", "created_at")
upload_parts = table("upload_parts", "tenant", "upload_id", "n", "data")
versions = table(
    "versions",
    *("tenant", "document_id", "version", "text", Column("blocks", JSON), "pages", "sha256"),
    *("created_at", "replaced_at"),
)
chunks = table(
    "chunks",
    Column("number", Integer, primary_key=True),
    *("tenant", "collection", "generation", "document_id", "reading", "start", "end", "page"),
    *(Column("heading_path", JSON), "language", "tokens", "length", "vector"),
)
readings = table("readings", "tenant", "document_id", "reading", "replaced")
removals = table(
    "removals",
    Column("seq", Integer, primary_key=True),
    *("tenant", "collection", "generation", "number", "at"),
)
terms = table("terms", "tenant", "collection", "generation", "term", "df")
spaces = table("spaces", "tenant", "collection", "generation", "language", "chunks", "length")
jobs = table(
    "jobs",
    *("tenant", "id", "kind", "lane", "state", Column("payload", JSON), "attempt", "tries"),
    *("deaths", "place", "run_at", "deadline_at", "rung_at", "claimed_stamp", "owner"),
    *("lease_until", Column("cancel_requested", Boolean), "created_at", "started_at", "ended_at"),
    *(Column("result", JSON), "error_code", "error_message", "retry_of", "idempotency"),
    *("document_id", Column("log_dropped", Boolean)),
)

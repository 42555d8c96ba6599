"""The tables of the records: the truth, in SQL that SQLite and PostgreSQL both run.

Tenant is in every key. The keyword index (FTS5) is not a table of SQLAlchemy: `migrations/` creates it.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData()
# SQLite gives AUTOINCREMENT (numbers never reused) to INTEGER keys only.
Number = BigInteger().with_variant(Integer, "sqlite")

facts = Table(  # the database's UUID
    "facts",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", Text, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("id", String, primary_key=True),  # the public part of the key
    Column("hash", String, nullable=False),  # SHA-256 of the secret part: 256 random bits need no slow hash
    Column("name", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
    Index("api_keys_id", "id", unique=True),
)

jobs = Table(
    "jobs",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("lane", String, nullable=False),
    Column("state", String, nullable=False),
    Column("payload", Text, nullable=False),  # JSON
    Column("attempt", Integer, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("deaths", Integer, nullable=False),
    Column("place", Float, nullable=False),  # order in the lane; 0 = front
    Column("run_at", Float, nullable=False),
    Column("deadline_at", Float, nullable=False),
    Column("rung_at", Float),  # None: needs a ring as soon as it is due
    Column("claimed_stamp", Float),  # stamp of the ring that its last claim answered; None after a ring at the front
    Column("owner", String),
    Column("lease_until", Float),
    Column("cancel_requested", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("result", Text),  # JSON
    Column("error_code", String),
    Column("error_message", Text),
    Column("retry_of", String),
    Index("jobs_id", "id", unique=True),
    Index("jobs_waiting", "lane", "place", "run_at", sqlite_where=text("state = 'queued'"), postgresql_where=text("state = 'queued'")),
    Index("jobs_tenant_waiting", "tenant", "lane", sqlite_where=text("state = 'queued'"), postgresql_where=text("state = 'queued'")),
    Index("jobs_unrung", "rung_at", sqlite_where=text("state = 'queued'"), postgresql_where=text("state = 'queued'")),
    Index("jobs_leased", "lease_until", sqlite_where=text("state = 'running'"), postgresql_where=text("state = 'running'")),
    Index("jobs_owner", "owner", sqlite_where=text("state = 'running'"), postgresql_where=text("state = 'running'")),
    Index("jobs_overtaking", "lane", "claimed_stamp"),
    Index(
        "jobs_deadline",
        "deadline_at",
        sqlite_where=text("state in ('queued', 'running')"),
        postgresql_where=text("state in ('queued', 'running')"),
    ),
    Index("jobs_ended", "ended_at"),
    Index("jobs_listed", "tenant", "created_at"),
)

answers = Table(  # one row a job: the fence lets one attempt finish, and the key shows it if it did not
    "answers",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("job_id", String, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("body", Text, nullable=False),  # JSON: text, citations, grounding, usage, timings
    Column("created_at", Float, nullable=False),
)

quotes = Table(  # which jobs were shown passages of which documents: what a delete must erase
    "quotes",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("document_id", String, primary_key=True),
    Column("job_id", String, primary_key=True),
    Index("quotes_job", "tenant", "job_id"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("caller", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("body_sha256", String, nullable=False),
    Column("job_id", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("idempotency_created", "created_at"),
)

events = Table(  # reached only through a job that was resolved with its tenant
    "events",
    metadata,
    Column("job_id", String, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("type", String, nullable=False),
    Column("data", Text, nullable=False),  # JSON
    Column("at", Float, nullable=False),
    sqlite_with_rowid=False,
)

workers = Table(
    "workers",
    metadata,
    Column("owner", String, primary_key=True),  # one a process and start
    Column("host", String, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("lanes", String, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("beat_at", Float, nullable=False),
    Column("running", Integer, nullable=False),
)

counters = Table(  # sums of what the worker processes counted, for /metrics of any process
    "counters",
    metadata,
    Column("name", String, primary_key=True),
    Column("labels", String, primary_key=True),  # JSON
    Column("value", Float, nullable=False),
)

collections = Table(
    "collections",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("generation", String, nullable=False),  # the active one: embedder + chunking
    Column("created_at", Float, nullable=False),
)

documents = Table(
    "documents",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("id", String, primary_key=True),
    Column("collection", String, nullable=False),
    Column("source", Text, nullable=False),
    Column("media_type", String, nullable=False),
    Column("title", Text, nullable=False),
    Column("version", Integer, nullable=False),  # 0: no version is ready yet
    Column("state", String, nullable=False),  # pending, ready, failed, deleted
    Column("sha256", String, nullable=False),  # of the bytes of the current version
    Column("language", String, nullable=False),
    Column("chunks", Integer, nullable=False),
    Column("error", Text),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("hidden_at", Float),
    Column("erased_at", Float),
    Column("counts", Text),  # JSON: what the erasure removed
    Index(
        "documents_source",
        "tenant",
        "collection",
        "source",
        unique=True,
        sqlite_where=text("state <> 'deleted'"),
        postgresql_where=text("state <> 'deleted'"),
    ),
    Index(
        "documents_erasing",
        "hidden_at",
        sqlite_where=text("state = 'deleted' and erased_at is null"),
        postgresql_where=text("state = 'deleted' and erased_at is null"),
    ),
)

uploads = Table(
    "uploads",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("id", String, primary_key=True),
    Column("document_id", String, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("uploads_document", "tenant", "document_id"),
)

versions = Table(
    "versions",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("document_id", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("text", Text, nullable=False),  # the canonical text
    Column("blocks", Text, nullable=False),  # JSON
    Column("pages", Integer),
    Column("sha256", String, nullable=False),
    Column("created_at", Float, nullable=False),
)

chunks = Table(
    "chunks",
    metadata,
    Column("number", Number, primary_key=True, autoincrement=True),
    Column("tenant", String, nullable=False),
    Column("collection", String, nullable=False),
    Column("generation", String, nullable=False),
    Column("document_id", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("start", Integer, nullable=False),
    Column("end", Integer, nullable=False),
    Column("page", Integer),
    Column("heading_path", Text, nullable=False),  # JSON list
    Column("language", String, nullable=False),
    Column(
        "tokens", Text, nullable=False
    ),  # our own tokens of title, heading path and text, space separated, and the tokens of tenant and collection
    Column("length", Integer, nullable=False),  # how many tokens of ours
    Column("vector", LargeBinary),  # little-endian fp16; None without an embedder
    Index("chunks_document", "tenant", "document_id", "version"),
    Index("chunks_space", "tenant", "collection", "generation", "number"),
    sqlite_autoincrement=True,
)

removals = Table(  # what replicas must forget, in order
    "removals",
    metadata,
    Column("seq", Number, primary_key=True, autoincrement=True),
    Column("tenant", String, nullable=False),
    Column("collection", String, nullable=False),
    Column("generation", String, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("at", Float, nullable=False),
    Index("removals_space", "tenant", "collection", "generation", "seq"),
    sqlite_autoincrement=True,
)

terms = Table(  # document frequencies: how many chunks of a collection hold a term
    "terms",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("collection", String, primary_key=True),
    Column("generation", String, primary_key=True),
    Column("term", String, primary_key=True),
    Column("df", Integer, nullable=False),
    sqlite_with_rowid=False,
)

spaces = Table(  # sums that BM25 needs, and the languages that a question is tokenised for
    "spaces",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("collection", String, primary_key=True),
    Column("generation", String, primary_key=True),
    Column("language", String, primary_key=True),
    Column("chunks", Integer, nullable=False),
    Column("length", BigInteger, nullable=False),
)

"""The tables of the records and their columns, for statements to name; types, keys and indexes stand in `migrations/*.sql`.

Tenant is in every key. The SQL is what SQLite and PostgreSQL both run, the keyword index (FTS5) of SQLite apart.
"""

from sqlalchemy import Column, Integer, MetaData, Table


def _table(name: str, columns: str, *numbered: Column[int]) -> Table:
    return Table(name, MetaData(), *numbered, *map(Column, columns.split()))


facts = _table("facts", "name value")
api_keys = _table("api_keys", "tenant id hash name created_at revoked_at")
jobs = _table(
    "jobs",
    """tenant id kind lane state payload attempt tries deaths place run_at deadline_at rung_at claimed_stamp owner lease_until
    cancel_requested created_at started_at ended_at result error_code error_message retry_of""",
)
answers = _table("answers", "tenant job_id attempt body created_at")
quotes = _table("quotes", "tenant document_id job_id")
idempotency = _table("idempotency", "tenant caller key body_sha256 job_id created_at")
events = _table("events", "job_id seq type data at")
workers = _table("workers", "owner host pid lanes started_at beat_at running")
counters = _table("counters", "name labels value")
collections = _table("collections", "tenant name generation created_at")
documents = _table(
    "documents",
    """tenant id collection source media_type title version state sha256 language chunks error created_at updated_at hidden_at
    erased_at counts""",
)
uploads = _table("uploads", "tenant id document_id data created_at")
versions = _table("versions", "tenant document_id version text blocks pages sha256 created_at")
chunks = _table(
    "chunks",
    "tenant collection generation document_id version start end page heading_path language tokens length vector",
    Column("number", Integer, primary_key=True),
)
removals = _table("removals", "tenant collection generation number at", Column("seq", Integer, primary_key=True))
terms = _table("terms", "tenant collection generation term df")
spaces = _table("spaces", "tenant collection generation language chunks length")

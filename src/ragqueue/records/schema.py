"""The tables of the records and their columns, for statements to name; types, keys and indexes stand in `migrations/*.sql`.

Tenant is in every key. A word after a colon says how a column is read: `json`, `bool`, `key` (numbered by the database).
"""

from typing import Any

from sqlalchemy import JSON, Boolean, Column, Integer, MetaData, Table
from sqlalchemy.types import NullType, TypeEngine

_TYPES: dict[str, TypeEngine[Any]] = {"": NullType(), "json": JSON(none_as_null=True), "bool": Boolean(), "key": Integer()}


def _table(words: str) -> Table:
    name, *columns = (word.partition(":") for word in words.split())
    return Table(name[0], MetaData(), *(Column(column, _TYPES[kind], primary_key=kind == "key") for column, _, kind in columns))


facts = _table("facts name value")
api_keys = _table("api_keys tenant id hash name created_at revoked_at")
jobs = _table(
    "jobs tenant id kind lane state payload:json attempt tries deaths place run_at deadline_at rung_at claimed_stamp owner lease_until "
    "cancel_requested:bool created_at started_at ended_at result:json error_code error_message retry_of"
)
answers = _table("answers tenant job_id attempt body:json created_at")
quotes = _table("quotes tenant document_id job_id")
idempotency = _table("idempotency tenant caller key body_sha256 job_id created_at")
events = _table("events job_id seq type data at")
workers = _table("workers owner host pid lanes started_at beat_at running")
counters = _table("counters name labels value")
collections = _table("collections tenant name generation created_at")
documents = _table(
    "documents tenant id collection source media_type title version state sha256 language chunks error created_at updated_at hidden_at "
    "erased_at counts:json"
)
uploads = _table("uploads tenant id document_id data created_at")
versions = _table("versions tenant document_id version text blocks:json pages sha256 created_at")
chunks = _table(
    "chunks number:key tenant collection generation document_id version start end page heading_path:json language tokens length vector"
)
removals = _table("removals seq:key tenant collection generation number at")
terms = _table("terms tenant collection generation term df")
spaces = _table("spaces tenant collection generation language chunks length")

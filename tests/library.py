"""Small libraries of documents for tests: one chunk a paragraph."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from ragqueue.ingestion.reading import row_of
from ragqueue.records import chunks
from ragqueue.records.schema import migrate
from ragqueue.records.store import Records
from ragqueue.types import Passage, Space
from tests.databases import open_records as open_new
from tests.tables import collections, documents, versions

GENERATION = "words"
Embed = Callable[[str], NDArray[np.float32]]


def open_records(folder: Path) -> Records:
    records = open_new(folder)
    migrate(records.engine)
    return records


def add(
    connection: Connection,
    document_id: str,
    text: str,
    *,
    tenant: str = "acme",
    collection: str = "default",
    generation: str = GENERATION,
    language: str = "en",
    version: int = 1,
    embed: Embed | None = None,
) -> list[int]:
    """Store a ready document whose paragraphs are its chunks; return their numbers."""
    names = {"tenant": tenant, "name": collection}
    if not list(connection.execute(collections.select().filter_by(**names))):
        connection.execute(
            collections.insert(), names | {"generation": generation, "created_at": 0}
        )
    row = {
        "tenant": tenant,
        "id": document_id,
        "collection": collection,
        "source": f"{document_id}.md",
        "media_type": "text/markdown",
        "title": "",
        "version": version,
        "reading": version,
        "state": "ready",
        "sha256": "",
        "language": language,
        "chunks": 0,
        "created_at": 0,
        "updated_at": 0,
    }
    connection.execute(documents.delete().filter_by(tenant=tenant, id=document_id))
    connection.execute(documents.insert(), row)
    text_row = {
        "tenant": tenant,
        "document_id": document_id,
        "version": version,
        "text": text,
        "blocks": "[]",
        "sha256": "",
        "created_at": 0,
    }
    connection.execute(
        versions.delete().filter_by(tenant=tenant, document_id=document_id, version=version)
    )
    connection.execute(versions.insert(), text_row)
    rows, start = [], 0
    for paragraph in text.split("\n"):
        vector = embed(paragraph).astype("<f2").tobytes() if embed else None
        passage = Passage(
            text=paragraph,
            start=start,
            end=start + len(paragraph),
            heading_path=("Part", "One"),
            page=3,
        )
        rows.append((row_of(passage, paragraph, language), vector))
        start += len(paragraph) + 1
    return chunks.insert(
        connection,
        Space(tenant=tenant, collection=collection, generation=generation),
        document_id,
        version,
        language,
        rows,
    )


def hide(connection: Connection, document_id: str, *, tenant: str = "acme") -> None:
    connection.execute(
        documents.update().filter_by(tenant=tenant, id=document_id).values(state="deleted")
    )

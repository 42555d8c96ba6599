"""The rows of chunks with their vectors, and the sums that keyword ranking needs: all change in one transaction."""

import json
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, and_, select, text

from ragqueue.language.tokens import tokenize
from ragqueue.records.schema import chunks, removals
from ragqueue.records.store import NOW, to_json
from ragqueue.types import Chunk, Passage, Space

# One statement for thousands of terms: a third of the time of one statement a term.
_ADD_TERMS = text("""
    insert into terms (tenant, collection, generation, term, df)
    select :tenant, :collection, :generation, key, value from json_each(:counted) where true
    on conflict (tenant, collection, generation, term) do update set df = df + excluded.df""")
_ADD_CHUNKS = text("""
    insert into spaces (tenant, collection, generation, language, chunks, length)
    values (:tenant, :collection, :generation, :language, :chunks, :length)
    on conflict (tenant, collection, generation, language) do update set chunks = chunks + excluded.chunks, length = length + excluded.length""")
_HERE = "where tenant = :tenant and collection = :collection and generation = :generation"
_DROP_TERMS = text(
    f"delete from terms {_HERE} and df <= 0 and term in (select key from json_each(:counted))"
)
_DROP_SPACES = text(f"delete from spaces {_HERE} and chunks <= 0")
# Only chunks of ready documents, in their current version: this hides a delete at once, in every process.
# "cross" keeps SQLite from walking all of the tenant's chunks.
SHOWN = """from json_each(:numbers) wanted cross join chunks c on c.number = wanted.value and c.tenant = :tenant
    join documents d on d.tenant = c.tenant and d.id = c.document_id and d.state = 'ready' and d.version = c.version"""
_ADDED = text(
    f"select number, vector from chunks {_HERE} and number > :after and vector is not null order by number limit :limit"
)
_REMOVED = text(f"select seq, number from removals {_HERE} and seq > :removal order by seq")
_LIVING = text(f"select number from chunks {_HERE} and vector is not null order by number")
_LAST_REMOVAL = text(f"select coalesce(max(seq), 0) from removals {_HERE}")
_LOAD = text(f"""
    select c.number, c.document_id, c.version, c.start, c."end", substr(v.text, c.start + 1, c."end" - c.start) as text,
    d.title, d.source, c.heading_path, c.page, c.language {SHOWN}
    join versions v on v.tenant = c.tenant and v.document_id = c.document_id and v.version = c.version""")


class News(NamedTuple):
    """What changed in a space. A number's vector never changes, and numbers become visible in rising order."""

    numbers: NDArray[np.int64]  # of new chunks, rising
    vectors: NDArray[np.float16]  # of these, shape (len(numbers), dimensions)
    gone: NDArray[np.int64]  # numbers of removed chunks
    removal: int  # seq of the last removal


def scope(space: Space) -> str:
    """Return the token that marks the chunks of a space in the keyword index; no text yields one with a leading "_"."""
    return "_" + blake2b(json.dumps(space).encode(), digest_size=10).hexdigest()


def insert(
    connection: Connection,
    space: Space,
    document_id: str,
    version: int,
    language: str,
    rows: Sequence[tuple[Passage, str, bytes | None]],
) -> list[int]:
    """Add the chunks of a version, each (passage, text to index, little-endian fp16 vector); return their numbers, in order."""
    mark, held = scope(space), [tokenize(indexed, language) for _, indexed, _ in rows]
    common = space._asdict() | {
        "document_id": document_id,
        "version": version,
        "language": language,
    }
    values = [  # a passage's text stands in its version
        common
        | passage._asdict()
        | {"tokens": " ".join([mark, *tokens]), "length": len(tokens), "vector": vector}
        for (passage, _, vector), tokens in zip(rows, held, strict=True)
    ]
    numbers = (
        connection.execute(
            chunks.insert().returning(chunks.c.number, sort_by_parameter_order=True), values
        )
        .scalars()
        .all()
    )
    _add(connection, space, language, held, sign=1)
    return list(numbers)


def remove(connection: Connection, tenant: str, document_id: str) -> list[int]:
    """Delete a document's chunks, leave the removals of their vectors for replicas, and return the numbers that went."""
    doomed = and_(chunks.c.tenant == tenant, chunks.c.document_id == document_id)
    names = ["tenant", "collection", "generation", "number"]
    gone = (
        select(*(chunks.c[name] for name in names), NOW)
        .where(doomed, chunks.c.vector.is_not(None))
        .order_by(chunks.c.number)
    )
    connection.execute(removals.insert().from_select([*names, "at"], gone))
    names = ["number", "collection", "generation", "language", "tokens"]
    rows = connection.execute(
        chunks.delete().where(doomed).returning(*(chunks.c[name] for name in names))
    ).all()
    if rows:  # of one version, so of one space and language
        space, language = Space(tenant, rows[0].collection, rows[0].generation), rows[0].language
        _add(connection, space, language, [row.tokens.split(" ")[1:] for row in rows], sign=-1)
    return [row.number for row in rows]


def _add(
    connection: Connection, space: Space, language: str, held: Sequence[Sequence[str]], *, sign: int
) -> None:
    frequencies = Counter(term for tokens in held for term in set(tokens))
    counted = to_json(
        {term: sign * frequencies[term] for term in sorted(frequencies)}
    )  # in the order of the key: neighbours share pages
    sums = {
        "language": language,
        "chunks": sign * len(held),
        "length": sign * sum(map(len, held)),
        "counted": counted,
    }
    for statement in (_ADD_TERMS, _ADD_CHUNKS, *((_DROP_TERMS, _DROP_SPACES) if sign < 0 else ())):
        connection.execute(statement, space._asdict() | sums)


def load(connection: Connection, tenant: str, numbers: Sequence[int]) -> list[Chunk]:
    """Return these chunks in this order; those that may not be shown are left out."""
    rows = connection.execute(_LOAD, {"tenant": tenant, "numbers": json.dumps(numbers)})
    found = {
        row.number: Chunk(**{**row._mapping, "heading_path": tuple(json.loads(row.heading_path))})
        for row in rows
    }
    return [found[number] for number in numbers if number in found]


def news(connection: Connection, space: Space, after: int, removal: int, limit: int) -> News:
    """Return at most `limit` chunks of a space after a number, and all that was removed after a seq."""
    rows = connection.execute(_ADDED, space._asdict() | {"after": after, "limit": limit}).all()
    removed = connection.execute(_REMOVED, space._asdict() | {"removal": removal}).all()
    halves = np.frombuffer(b"".join(row.vector for row in rows), "<f2")
    numbers, gone = (np.array([row.number for row in found], np.int64) for found in (rows, removed))
    return News(
        numbers,
        halves.reshape(len(rows), -1 if rows else 0),
        gone,
        removed[-1].seq if removed else removal,
    )


def living(connection: Connection, space: Space) -> tuple[NDArray[np.int64], int]:
    """Return the numbers of all chunks of a space that have a vector, rising, and the seq of the last removal."""
    numbers = np.fromiter(connection.scalars(_LIVING, space._asdict()), np.int64)
    return numbers, connection.execute(_LAST_REMOVAL, space._asdict()).scalar_one()

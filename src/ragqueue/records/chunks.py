"""The rows of chunks with their vectors, and the sums that keyword ranking needs.

All of them change in one transaction.
"""

import json
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from msgspec import structs
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

from ragqueue.records.statements import as_list, from_json, sql, to_json
from ragqueue.types import Chunk, Row, Space

# For SQLAlchemy to insert thousands of rows with one statement, and to return their numbers.
_CHUNKS = Table(
    "chunks",
    MetaData(),
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("tenant", String),
    Column("collection", String),
    Column("generation", String),
    Column("document_id", String),
    Column("reading", BigInteger),
    Column("start", Integer),
    Column("end", Integer),
    Column("page", Integer),
    Column("heading_path", String),
    Column("language", String),
    Column("tokens", String),
    Column("length", Integer),
    Column("vector", LargeBinary),
)
_INSERT = _CHUNKS.insert().returning(_CHUNKS.c.number, sort_by_parameter_order=True)

_HERE = "tenant = :tenant and collection = :collection and generation = :generation"

_HOLD = sql("select hold(:names)")

# One statement for thousands of terms: a third of the time of one statement a term.
_ADD_TERMS = sql("""
    insert into terms (tenant, collection, generation, term, df)
    select :tenant, :collection, :generation, key, cast(value as bigint)
    from json_each(:frequencies) where true
    on conflict (tenant, collection, generation, term)
    do update set df = terms.df + excluded.df""")

_ADD_CHUNKS = sql("""
    insert into spaces (tenant, collection, generation, language, chunks, length)
    values (:tenant, :collection, :generation, :language, :chunks, :length)
    on conflict (tenant, collection, generation, language)
    do update set chunks = spaces.chunks + excluded.chunks,
        length = spaces.length + excluded.length""")

_DROP_TERMS = sql(f"""
    delete from terms
    where {_HERE} and df <= 0 and term in (select key from json_each(:frequencies))""")

_DROP_SPACES = sql(f"delete from spaces where {_HERE} and chunks <= 0")

_NOTE_REMOVALS = sql("""
    insert into removals (tenant, collection, generation, number, at)
    select tenant, collection, generation, number, {now} from chunks
    where tenant = :tenant and document_id = :document_id and vector is not null
    order by number""")

_REMOVE = sql("""
    delete from chunks where tenant = :tenant and document_id = :document_id
    returning number, collection, generation, language, tokens""")

# Only chunks of ready documents, of their current reading: this hides a delete at once, in every
# process. "cross" keeps SQLite from walking all of the tenant's chunks.
SHOWN = """
    from json_each(:numbers) listed
    cross join chunks c
    join documents d on d.tenant = c.tenant and d.id = c.document_id
        and d.state = 'ready' and d.reading = c.reading"""
LISTED = "where c.number = cast(listed.value as bigint) and c.tenant = :tenant"

_LOAD = sql(f"""
    select c.number, c.document_id, d.version, c.start, c."end",
        substr(v.text, c.start + 1, c."end" - c.start) as text,
        d.title, d.source, c.heading_path, c.page, c.language
    {SHOWN}
    join versions v on v.tenant = c.tenant and v.document_id = c.document_id
        and v.version = d.version
    {LISTED}""")

_ADDED = sql(f"""
    select number, vector from chunks
    where {_HERE} and number > :after and vector is not null
    order by number
    limit :limit""")

_REMOVED = sql(f"select seq, number from removals where {_HERE} and seq > :removal order by seq")

_LIVING = sql(f"select number from chunks where {_HERE} and vector is not null order by number")

_LAST_REMOVAL = sql(f"select coalesce(max(seq), 0) from removals where {_HERE}")


class News(NamedTuple):
    """What changed in a space.

    A number's vector never changes, and numbers become visible in rising order.
    """

    numbers: NDArray[np.int64]  # of new chunks, rising
    vectors: NDArray[np.float16]  # of these, shape (len(numbers), dimensions)
    gone: NDArray[np.int64]  # numbers of removed chunks
    removal: int  # seq of the last removal


def scope(space: Space) -> str:
    """Return the token that marks the chunks of a space in the keyword index.

    No text yields one with a leading "_".
    """
    names = json.dumps([space.tenant, space.collection, space.generation])
    return "_" + blake2b(names.encode(), digest_size=10).hexdigest()


def insert(
    connection: Connection,
    space: Space,
    document_id: str,
    reading: int,
    language: str,
    rows: Sequence[tuple[Row, bytes | None]],
) -> list[int]:
    """Add chunks of a reading that was begun and return their numbers, in order.

    Each comes with its little-endian fp16 vector. Nobody is shown them before `show`.
    """
    mark = scope(space)
    common = structs.asdict(space) | {
        "document_id": document_id,
        "reading": reading,
        "language": language,
    }
    hold(connection, space.tenant)
    values = []
    for row, vector in rows:  # its text stands in the version
        own = structs.asdict(row)
        own |= {"tokens": f"{mark} {row.tokens}", "vector": vector}
        own["heading_path"] = to_json(row.heading_path)
        values.append(common | own)
    numbers = connection.execute(_INSERT, values).scalars().all()
    all_tokens = [row.tokens.split() for row, _ in rows]
    _add_to_sums(connection, space, language, all_tokens, sign=1)
    return list(numbers)


def remove(connection: Connection, tenant: str, document_id: str) -> list[int]:
    """Delete a document's chunks and return the numbers that went.

    The removals of their vectors are left for replicas.
    """
    document = {"tenant": tenant, "document_id": document_id}
    hold(connection, tenant)
    connection.execute(_NOTE_REMOVALS, document)
    return count_out(connection, tenant, connection.execute(_REMOVE, document).all())


def hold(connection: Connection, tenant: str) -> None:
    """Let nobody else add or remove chunks of a tenant until this transaction ends.

    Numbers must become visible in rising order: a replica would miss a lower one for ever.
    """
    connection.execute(_HOLD, {"names": as_list([f"chunks of {tenant}"])})


def count_out(connection: Connection, tenant: str, removed: Sequence[Any]) -> list[int]:
    """Take removed rows out of the sums; return their numbers."""
    groups: dict[tuple[str, str, str], list[list[str]]] = {}
    for row in removed:
        group = (row.collection, row.generation, row.language)
        groups.setdefault(group, []).append(_without_mark(row.tokens))
    for (collection, generation, language), all_tokens in groups.items():
        space = Space(tenant=tenant, collection=collection, generation=generation)
        _add_to_sums(connection, space, language, all_tokens, sign=-1)
    return [row.number for row in removed]


def _without_mark(tokens: str) -> list[str]:
    return tokens.split()[1:]


def _add_to_sums(
    connection: Connection,
    space: Space,
    language: str,
    all_tokens: Sequence[Sequence[str]],
    *,
    sign: int,
) -> None:
    """Count chunks of these tokens in (1) or out (-1)."""
    df = Counter(term for tokens in all_tokens for term in set(tokens))
    # In the order of the key: neighbours share pages.
    frequencies = {term: sign * df[term] for term in sorted(df)}
    sums = structs.asdict(space) | {
        "language": language,
        "chunks": sign * len(all_tokens),
        "length": sign * sum(map(len, all_tokens)),
        "frequencies": to_json(frequencies),
    }
    connection.execute(_ADD_TERMS, sums)
    connection.execute(_ADD_CHUNKS, sums)
    if sign < 0:
        connection.execute(_DROP_TERMS, sums)
        connection.execute(_DROP_SPACES, sums)


def load(connection: Connection, tenant: str, numbers: Sequence[int]) -> list[Chunk]:
    """Return these chunks in this order; those that may not be shown are left out."""
    rows = connection.execute(_LOAD, {"tenant": tenant, "numbers": as_list(numbers)})
    by_number = {row.number: _chunk(row) for row in rows}
    return [by_number[number] for number in numbers if number in by_number]


def _chunk(row: Any) -> Chunk:
    return Chunk(
        number=row.number,
        document_id=row.document_id,
        version=row.version,
        start=row.start,
        end=row.end,
        text=row.text,
        title=row.title,
        source=row.source,
        heading_path=tuple(from_json(row.heading_path)),
        page=row.page,
        language=row.language,
    )


def news(connection: Connection, space: Space, after: int, removal: int, limit: int) -> News:
    """Return at most `limit` chunks of a space after a number, and all removals after a seq."""
    names = structs.asdict(space)
    added = connection.execute(_ADDED, names | {"after": after, "limit": limit}).all()
    removed = connection.execute(_REMOVED, names | {"removal": removal}).all()
    vectors = np.frombuffer(b"".join(row.vector for row in added), "<f2")
    dimensions = len(vectors) // len(added) if added else 0
    return News(
        numbers=np.array([row.number for row in added], np.int64),
        vectors=vectors.reshape(len(added), dimensions),
        gone=np.array([row.number for row in removed], np.int64),
        removal=removed[-1].seq if removed else removal,
    )


def living(connection: Connection, space: Space) -> tuple[NDArray[np.int64], int]:
    """Return the numbers of all chunks of a space that have a vector, and the last removal.

    Numbers are rising; of the removal it is the seq, 0 where there is none.
    """
    names = structs.asdict(space)
    numbers = np.fromiter(connection.scalars(_LIVING, names), np.int64)
    return numbers, connection.execute(_LAST_REMOVAL, names).scalar_one()

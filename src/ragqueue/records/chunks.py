"""The rows of chunks with their vectors, and the sums that keyword ranking needs: all change in one transaction."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, and_, select, text

from ragqueue.language.tokens import tokenize
from ragqueue.records.schema import chunks, removals
from ragqueue.records.store import NOW, now, to_json
from ragqueue.types import Chunk, Passage

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
_DROP_TERMS = text(f"delete from terms {_HERE} and df <= 0 and term in (select key from json_each(:counted))")
_DROP_SPACES = text(f"delete from spaces {_HERE} and chunks <= 0")
_FORGET = text(f"""
    delete from removals where at < {NOW} - :age and seq < (select max(seq) from removals last where last.tenant = removals.tenant
    and last.collection = removals.collection and last.generation = removals.generation)""")
# Only chunks of ready documents, in their current version: this hides a delete at once, in every process.
# "cross" keeps SQLite from walking all of the tenant's chunks.
_SHOWN = """from json_each(:numbers) wanted cross join chunks c on c.number = wanted.value and c.tenant = :tenant
    join documents d on d.tenant = c.tenant and d.id = c.document_id and d.state = 'ready' and d.version = c.version"""
_FROM = "from {} where tenant = ? and collection = ? and generation = ?"
_ADDED = f"select number, vector {_FROM.format('chunks')} and number > ? and vector is not null order by number limit ?"
_REMOVED = f"select seq, number {_FROM.format('removals')} and seq > ? order by seq"
_LIVING = f"select number {_FROM.format('chunks')} and vector is not null order by number"
_LAST_REMOVAL = f"select coalesce(max(seq), 0) {_FROM.format('removals')}"
_FEATURES = text(f"select c.number, c.collection, c.generation, c.language, c.tokens, c.length, c.vector {_SHOWN}")
_LOAD = text(f"""
    select c.number, c.document_id, c.version, c.start, c."end", substr(v.text, c.start + 1, c."end" - c.start) as text,
    d.title, d.source, c.heading_path, c.page, c.language {_SHOWN}
    join versions v on v.tenant = c.tenant and v.document_id = c.document_id and v.version = c.version""")


class Features(NamedTuple):
    """What both scores of a chunk are computed from."""

    number: int
    collection: str
    generation: str
    language: str
    tokens: str
    length: int
    vector: bytes | None


class Space(NamedTuple):
    """What search keeps apart within a tenant."""

    collection: str
    generation: str


class News(NamedTuple):
    """What changed in a space. A number's vector never changes, and numbers become visible in rising order."""

    numbers: NDArray[np.int64]  # of new chunks, rising
    vectors: NDArray[np.float16]  # of these, shape (len(numbers), dimensions)
    gone: NDArray[np.int64]  # numbers of removed chunks
    removal: int  # seq of the last removal


def scope(tenant: str, space: Space) -> str:
    """Return the token that marks the chunks of a space in the keyword index; no text yields one with a leading "_"."""
    return "_" + blake2b(json.dumps([tenant, *space]).encode(), digest_size=10).hexdigest()


def insert(
    connection: Connection, tenant: str, collection: str, generation: str, document_id: str, version: int, language: str,
    rows: Sequence[tuple[Passage, str, bytes | None]],
) -> list[int]:  # fmt: skip
    """Add the chunks of a version, each (passage, text to index, little-endian fp16 vector); return their numbers, in order."""
    if not rows:
        return []
    space, held, values = Space(collection, generation), [tokenize(indexed, language) for _, indexed, _ in rows], []
    common = {"tenant": tenant, **space._asdict(), "document_id": document_id, "version": version, "language": language}
    mark = scope(tenant, space)
    for (passage, _, vector), tokens in zip(rows, held, strict=True):
        place = {"start": passage.start, "end": passage.end, "page": passage.page, "heading_path": passage.heading_path}
        words = {"tokens": " ".join([mark, *tokens]), "length": len(tokens)}
        values.append(common | place | words | {"vector": vector})
    numbers = connection.execute(chunks.insert().returning(chunks.c.number, sort_by_parameter_order=True), values).scalars().all()
    _add(connection, tenant, space, language, held, sign=1)
    return list(numbers)


def remove(connection: Connection, tenant: str, document_id: str) -> int:
    """Delete a document's chunks, leave the removals of their vectors for replicas, and return how many went."""
    doomed = and_(chunks.c.tenant == tenant, chunks.c.document_id == document_id)
    groups: dict[tuple[Space, str], list[list[str]]] = defaultdict(list)
    query = select(chunks.c.collection, chunks.c.generation, chunks.c.language, chunks.c.tokens).where(doomed)
    for collection, generation, language, tokens in connection.execute(query):
        groups[Space(collection, generation), language].append(tokens.split(" ")[1:])
    names = ["tenant", "collection", "generation", "number"]
    gone = select(*(chunks.c[name] for name in names), now()).where(doomed, chunks.c.vector.is_not(None)).order_by(chunks.c.number)
    connection.execute(removals.insert().from_select([*names, "at"], gone))
    connection.execute(chunks.delete().where(doomed))
    for (space, language), held in groups.items():
        _add(connection, tenant, space, language, held, sign=-1)
    return sum(map(len, groups.values()))


def _add(connection: Connection, tenant: str, space: Space, language: str, held: Sequence[Sequence[str]], *, sign: int) -> None:
    frequencies = Counter(term for tokens in held for term in set(tokens))
    counted = to_json({term: sign * frequencies[term] for term in sorted(frequencies)})  # in the order of the key: neighbours share pages
    sums = {"language": language, "chunks": sign * len(held), "length": sign * sum(map(len, held)), "counted": counted}
    for statement in (_ADD_TERMS, _ADD_CHUNKS, *((_DROP_TERMS, _DROP_SPACES) if sign < 0 else ())):
        connection.execute(statement, {"tenant": tenant, **space._asdict(), **sums})


def forget_removals(connection: Connection, age: float) -> int:
    """Drop removals older than `age` seconds; the last of each space stays, for its seq says how far a replica is."""
    return connection.execute(_FORGET, {"age": age}).rowcount


def features(connection: Connection, tenant: str, spaces: Collection[Space], numbers: Collection[int]) -> list[Features]:
    """Return what the scores of these chunks need; those outside the spaces or that may not be shown are left out."""
    rows = connection.execute(_FEATURES, {"tenant": tenant, "numbers": json.dumps(list(numbers))})
    return [found for found in map(Features._make, rows) if (found.collection, found.generation) in spaces]


def load(connection: Connection, tenant: str, numbers: Sequence[int]) -> list[Chunk]:
    """Return these chunks in this order; those that may not be shown are left out."""
    rows = connection.execute(_LOAD, {"tenant": tenant, "numbers": json.dumps(numbers)})
    found = {row.number: Chunk(**{**row._mapping, "heading_path": tuple(json.loads(row.heading_path))}) for row in rows}
    return [found[number] for number in numbers if number in found]


def news(connection: Connection, space: Sequence[str], after: int, removal: int, limit: int) -> News:
    """Return at most `limit` chunks of (tenant, collection, generation) after a number, and all that was removed after a seq."""
    rows = connection.exec_driver_sql(_ADDED, (*space, after, limit)).all()
    removed = connection.exec_driver_sql(_REMOVED, (*space, removal)).all()
    halves = np.frombuffer(b"".join(row.vector for row in rows), "<f2")
    numbers, gone = (np.array([row.number for row in found], np.int64) for found in (rows, removed))
    return News(numbers, halves.reshape(len(rows), -1 if rows else 0), gone, removed[-1].seq if removed else removal)


def living(connection: Connection, space: Sequence[str]) -> tuple[NDArray[np.int64], int]:
    """Return the numbers of all chunks of a space that have a vector, rising, and the seq of the last removal."""
    numbers = np.fromiter(connection.exec_driver_sql(_LIVING, tuple(space)).scalars(), np.int64)
    return numbers, connection.exec_driver_sql(_LAST_REMOVAL, tuple(space)).scalar_one()

"""The rows of chunks, and the sums that keyword ranking needs: both change in one transaction."""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, select, text

from ragqueue.errors import NotFound
from ragqueue.language.tokens import tokenize
from ragqueue.records.schema import chunks, collections, removals
from ragqueue.records.store import now
from ragqueue.types import Chunk, Passage

_HERE = "where tenant = :tenant and collection = :collection and generation = :generation"
# One statement for thousands of terms: a third of the time of one statement a term.
_ADD_TERMS = (
    "insert into terms (tenant, collection, generation, term, df) "
    "select :tenant, :collection, :generation, key, cast(value as integer) from {each} where true "
    "on conflict (tenant, collection, generation, term) do update set df = terms.df + excluded.df"
)
_ADD_CHUNKS = (
    "insert into spaces (tenant, collection, generation, language, chunks, length) "
    "values (:tenant, :collection, :generation, :language, :chunks, :length) on conflict (tenant, collection, generation, language) "
    "do update set chunks = spaces.chunks + excluded.chunks, length = spaces.length + excluded.length"
)
_DROP_TERMS = f"delete from terms {_HERE} and df <= 0 and term in (select key from {{each}})"
_DROP_SPACES = f"delete from spaces {_HERE} and chunks <= 0"


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """A passage that is to be indexed."""

    passage: Passage
    indexed_text: str  # title, heading path and text
    vector: bytes | None  # little-endian fp16
    tokens: Sequence[str] | None = None  # of the indexed text; made at the insert when None, which keeps the write lock longer


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


def scope(tenant: str, space: Space) -> str:
    """Return the token that marks the chunks of a space in the keyword index; no text yields one with a leading "_"."""
    return "_" + blake2b(json.dumps([tenant, *space]).encode(), digest_size=10).hexdigest()


def spaces_of(connection: Connection, tenant: str, names: Sequence[str] | None) -> list[Space]:
    """Return the live spaces of these collections, of all of the tenant's when no names are given. Raises NotFound."""
    query = select(collections.c.name, collections.c.generation).where(collections.c.tenant == tenant).order_by(collections.c.name)
    if names is not None:
        query = query.where(collections.c.name.in_(names))
    found = [Space(*row) for row in connection.execute(query)]
    missing = set(names or ()) - {space.collection for space in found}
    if missing:
        raise NotFound(f"there is no collection {min(missing)!r}: add a document to it first, or leave the collection out")
    return found


def insert(
    connection: Connection,
    tenant: str,
    collection: str,
    generation: str,
    document_id: str,
    version: int,
    language: str,
    rows: Sequence[ChunkRow],
) -> list[int]:
    """Add the chunks of a document's version and return their numbers, in order."""
    if not rows:
        return []
    space, held = (
        Space(collection, generation),
        [tokenize(row.indexed_text, language) if row.tokens is None else row.tokens for row in rows],
    )
    common = {
        "tenant": tenant, "collection": collection, "generation": generation, "document_id": document_id, "version": version,
        "language": language,
    }  # fmt: skip
    mark = scope(tenant, space)
    values = [
        common
        | {
            "start": row.passage.start, "end": row.passage.end, "page": row.passage.page, "vector": row.vector, "length": len(tokens),
            "heading_path": json.dumps(row.passage.heading_path, ensure_ascii=False), "tokens": " ".join([mark, *tokens]),
        }
        for row, tokens in zip(rows, held, strict=True)
    ]  # fmt: skip
    numbers = connection.execute(chunks.insert().returning(chunks.c.number, sort_by_parameter_order=True), values).scalars().all()
    _add(connection, tenant, space, language, held, sign=1)
    return list(numbers)


def remove(connection: Connection, tenant: str, document_id: str, *, version: int | None = None, keep_version: int | None = None) -> int:
    """Delete a document's chunks: all, those of one version, or of all versions but one. Return how many went."""
    doomed = and_(chunks.c.tenant == tenant, chunks.c.document_id == document_id)
    if version is not None:
        doomed = and_(doomed, chunks.c.version == version)
    if keep_version is not None:
        doomed = and_(doomed, chunks.c.version != keep_version)
    query = select(chunks.c.collection, chunks.c.generation, chunks.c.language, chunks.c.tokens).where(doomed)
    groups: dict[tuple[Space, str], list[list[str]]] = {}
    for collection, generation, language, tokens in connection.execute(query):
        groups.setdefault((Space(collection, generation), language), []).append(tokens.split(" ")[1:])
    _leave_removals(connection, doomed)
    connection.execute(chunks.delete().where(doomed))
    for (space, language), held in groups.items():
        _add(connection, tenant, space, language, held, sign=-1)
    return sum(map(len, groups.values()))


def _leave_removals(connection: Connection, doomed: ColumnElement[bool]) -> None:
    names = ["tenant", "collection", "generation", "number"]
    found = select(*(chunks.c[name] for name in names), now().label("at")).where(doomed, chunks.c.vector.is_not(None))
    connection.execute(removals.insert().from_select([*names, "at"], found.order_by(chunks.c.number)))


def _add(connection: Connection, tenant: str, space: Space, language: str, held: Sequence[Sequence[str]], *, sign: int) -> None:
    """Add chunks with these tokens to the sums of their space, or take them away (`sign` -1)."""
    frequencies = Counter(term for tokens in held for term in set(tokens))
    values = {
        "tenant": tenant, "collection": space.collection, "generation": space.generation, "language": language,
        "chunks": sign * len(held), "length": sign * sum(map(len, held)),
        # In the order of the key: neighbours share pages, and two writers never wait for each other in a circle.
        "counted": json.dumps({term: sign * frequencies[term] for term in sorted(frequencies)}, ensure_ascii=False),
    }  # fmt: skip
    each = "json_each(:counted)" if connection.dialect.name == "sqlite" else "json_each_text(cast(:counted as json))"
    for statement in (_ADD_TERMS, _ADD_CHUNKS, *((_DROP_TERMS, _DROP_SPACES) if sign < 0 else ())):
        connection.execute(text(statement.format(each=each)), values)


def features(connection: Connection, tenant: str, spaces: Sequence[Space], numbers: Collection[int]) -> list[Features]:
    """Return what the scores of these chunks need, in one query; those outside the spaces or that may not be shown are left out."""
    query = f"select c.number, c.collection, c.generation, c.language, c.tokens, c.length, c.vector from {_live(connection)}"
    rows = connection.execute(text(query), {"tenant": tenant, "numbers": json.dumps(list(numbers))})
    allowed = set(spaces)
    return [Features(*row) for row in rows if (row[1], row[2]) in allowed]


def load(connection: Connection, tenant: str, numbers: Sequence[int]) -> list[Chunk]:
    """Return these chunks in this order; those that may not be shown are left out."""
    query = (
        'select c.number, c.document_id, c.version, c.start, c."end", substr(v.text, c.start + 1, c."end" - c.start), d.title, d.source, '
        f"c.heading_path, c.page, c.language from {_live(connection)} "
        "join versions v on v.tenant = c.tenant and v.document_id = c.document_id and v.version = c.version"
    )
    rows = connection.execute(text(query), {"tenant": tenant, "numbers": json.dumps(list(numbers))})
    found = {
        number: Chunk(number, document_id, version, start, end, body, title, source, tuple(json.loads(path)), page, language)
        for number, document_id, version, start, end, body, title, source, path, page, language in rows
    }
    return [found[number] for number in numbers if number in found]


def _live(connection: Connection) -> str:
    """Return the join of the wanted chunks that may be shown: of ready documents, in their current version.

    This hides a delete at once, in every process.
    """
    # "cross" keeps SQLite from walking all of the tenant's chunks.
    wanted = "json_each(:numbers) wanted cross"
    if connection.dialect.name != "sqlite":
        wanted = "json_array_elements_text(cast(:numbers as json)) as wanted(value)"
    return (
        f"{wanted} join chunks c on c.number = cast(wanted.value as bigint) and c.tenant = :tenant "
        "join documents d on d.tenant = c.tenant and d.id = c.document_id and d.state = 'ready' and d.version = c.version"
    )

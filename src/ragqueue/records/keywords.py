"""Keyword search: candidates from the database's index of words, ranked by true BM25.

It indexes `chunks.tokens` and is kept by the database itself, so that a delete is a delete.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row

from ragqueue.errors import NotFound
from ragqueue.language.bm25 import bm25, weight
from ragqueue.language.tokens import asked
from ragqueue.records.chunks import LISTED, SHOWN, scope
from ragqueue.records.database import FEWEST_TERMS, database_of
from ragqueue.records.statements import as_list, sql
from ragqueue.types import Space

# Postings that are walked for a question: the same ranking as all of them, at a fifth of the time.
BUDGET = 10_000
LEAST_SHARE = 0.1  # of the budget that a language has, however few chunks speak it
MOST_TERMS = 12
CANDIDATES = 200  # what the index's own ranking finds is ranked again

# Lists travel as JSON: SQLAlchemy's `in_` took 2 ms of CPU a question.
_COLLECTIONS = "c.tenant = :tenant and (cast(:names as text) is null or c.name in {list:names})"

_SUMS = sql(f"""
    select c.name, c.generation, s.language, s.chunks, s.length from collections c
    left join spaces s on s.tenant = c.tenant and s.collection = c.name
        and s.generation = c.generation
    where {_COLLECTIONS}
    order by c.name""")

_FREQUENCIES = sql(f"""
    select t.term, cast(sum(t.df) as bigint) as df from collections c
    cross join terms t
    where t.tenant = c.tenant and t.collection = c.name and t.generation = c.generation
        and {_COLLECTIONS} and t.term in {{list:terms}}
    group by t.term""")

_FEATURES = sql(f"""
    select c.number, c.collection, c.generation, c.language, c.tokens, c.length, c.vector
    {SHOWN}
    {LISTED}""")


class Scored(NamedTuple):
    """A chunk with its score by words, and what its score by vectors is computed from."""

    number: int
    generation: str
    vector: bytes | None
    bm25: float
    part: float  # of the highest possible BM25, 0..1: comparable across questions


class Weights(NamedTuple):
    """What the words of a question weigh in some spaces of a tenant.

    Each language that is spoken there has weights of its own.
    """

    tenant: str
    spaces: Collection[Space]
    idf: Mapping[str, Mapping[str, float]]  # language -> term -> weight
    average: Mapping[str, float]  # language -> tokens of a chunk
    picked: Mapping[str, float]  # the terms to look up


def weigh(
    connection: Connection, tenant: str, names: Sequence[str] | None, question: str
) -> Weights:
    """Weigh a question's words in each language of these collections.

    None means all of the tenant's. Raises NotFound.
    """
    chosen = {"tenant": tenant, "names": None if names is None else as_list(names)}
    rows = connection.execute(_SUMS, chosen).all()
    _check_exist(names, rows)
    counts, lengths = _sums_of(rows)
    terms = asked(question, counts)
    distinct = set().union(*terms.values())
    frequencies = connection.execute(_FREQUENCIES, chosen | {"terms": as_list(distinct)})
    df = {row.term: row.df for row in frequencies}
    idf = {language: _idf(terms[language], counts.total(), df) for language in terms}
    spaces = [Space(tenant=tenant, collection=row.name, generation=row.generation) for row in rows]
    return Weights(
        tenant=tenant,
        spaces=spaces,
        idf=idf,
        average={language: lengths[language] / count for language, count in counts.items()},
        picked=_pick(idf, counts, df),
    )


def _check_exist(names: Sequence[str] | None, rows: Iterable[Row[Any]]) -> None:
    missing = set(names or ()).difference(row.name for row in rows)
    if missing:
        raise NotFound(
            f"there is no collection {min(missing)!r}: "
            "add a document to it first, or leave the collection out"
        )


def _sums_of(rows: Iterable[Row[Any]]) -> tuple[Counter[str], Counter[str]]:
    """Return the number of chunks of each language, and the number of their tokens."""
    counts = Counter[str]()
    lengths = Counter[str]()
    for row in rows:
        if row.language is not None:
            counts[row.language] += row.chunks
            lengths[row.language] += row.length
    return counts, lengths


def _idf(terms: Mapping[str, int], chunks: int, df: Mapping[str, int]) -> dict[str, float]:
    """Return the weight of each term; what the question says twice counts twice."""
    return {term: times * weight(chunks, df.get(term, 0)) for term, times in terms.items()}


def _pick(
    idf: Mapping[str, Mapping[str, float]], counts: Counter[str], df: Mapping[str, int]
) -> dict[str, float]:
    """Return the rarest terms with their weights.

    They are as many as have no more postings than the budget.
    """
    picked: dict[str, float] = {}
    for language, weights in idf.items():
        budget = BUDGET * max(counts[language] / counts.total(), LEAST_SHARE)
        rarest = sorted(weights.keys() & df, key=lambda term: (df[term], term))
        for i, term in enumerate(rarest[:MOST_TERMS]):
            budget -= df[term]
            if budget >= 0 or i < FEWEST_TERMS:
                picked[term] = weights[term]
    return picked


def scored(connection: Connection, weights: Weights, numbers: Collection[int]) -> list[Scored]:
    """Return these chunks with their BM25, best first, ties by number.

    Those outside the spaces or that may not be shown are left out.
    """
    results = []
    searched = {(space.collection, space.generation) for space in weights.spaces}
    parameters = {"tenant": weights.tenant, "numbers": as_list(numbers)}
    rows = connection.execute(_FEATURES, parameters)
    for number, collection, generation, language, tokens, length, vector in rows:
        if (collection, generation) not in searched:
            continue
        score, part = bm25(
            weights.idf.get(language, {}),
            tokens.split(" "),
            length=length,
            average=weights.average.get(language, 0),
        )
        results.append(
            Scored(number=number, generation=generation, vector=vector, bm25=score, part=part)
        )
    return sorted(results, key=lambda result: (-result.bm25, result.number))


def search(connection: Connection, weights: Weights, limit: int) -> list[Scored]:
    """Return at most `limit` chunks, best first, ties by number.

    They are of those that the index takes for the best.
    """
    if not weights.picked:
        return []
    scopes = [scope(space) for space in weights.spaces]
    most = max(2 * limit, CANDIDATES)
    database = database_of(connection.dialect.name)
    numbers = database.candidates(connection, scopes, weights.picked, most)
    return scored(connection, weights, numbers)[:limit]

"""Keyword search: candidates from FTS5 over `chunks.tokens`, which triggers keep (a delete is a delete), ranked by true BM25."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from ragqueue.errors import NotFound
from ragqueue.language.bm25 import bm25, weight
from ragqueue.language.tokens import asked
from ragqueue.records.chunks import SHOWN, scope
from ragqueue.types import Space

BUDGET = 10_000  # postings that are walked for a question: the same ranking as all of them, at a fifth of the time
FEWEST_TERMS = 2
MOST_TERMS = 12
CANDIDATES = 200  # what the index's own ranking finds is ranked again
# Lists travel as JSON: SQLAlchemy's `in_` took 2 ms of CPU a question.
_WANTED = (
    "c.tenant = :tenant and (:names is null or c.name in (select value from json_each(:names)))"
)
_SUMS = text(f"""
    select c.name, c.generation, s.language, s.chunks, s.length from collections c
    left join spaces s on s.tenant = c.tenant and s.collection = c.name and s.generation = c.generation where {_WANTED} order by c.name""")
_FREQUENCIES = text(f"""
    select t.term, sum(t.df) from collections c
    cross join terms t on t.tenant = c.tenant and t.collection = c.name and t.generation = c.generation
    where {_WANTED} and t.term in (select value from json_each(:words)) group by t.term""")
_FEATURES = text(
    f"select c.number, c.collection, c.generation, c.language, c.tokens, c.length, c.vector {SHOWN}"
)


class Scored(NamedTuple):
    """A chunk with its score by words, and what its score by vectors is computed from."""

    number: int
    generation: str
    vector: bytes | None
    bm25: float
    part: float  # of the highest possible BM25, 0..1: comparable across questions


class Weights(NamedTuple):
    """What the words of a question weigh in some spaces of a tenant, for each language spoken there."""

    tenant: str
    spaces: Collection[Space]
    idf: Mapping[str, Mapping[str, float]]  # language -> term -> weight
    average: Mapping[str, float]  # language -> tokens of a chunk
    picked: Mapping[str, float]  # the terms to look up


def weigh(
    connection: Connection, tenant: str, names: Sequence[str] | None, question: str
) -> Weights:
    """Weigh a question's words in each language of these collections (None: of all of the tenant's). Raises NotFound."""
    wanted = {"tenant": tenant, "names": None if names is None else json.dumps(names)}
    rows = connection.execute(_SUMS, wanted).all()
    if missing := set(names or ()).difference(row.name for row in rows):
        raise NotFound(
            f"there is no collection {min(missing)!r}: add a document to it first, or leave the collection out"
        )
    counts, lengths = Counter[str](), Counter[str]()
    for row in rows:
        if row.language is not None:
            counts[row.language] += row.chunks
            lengths[row.language] += row.length
    words = asked(question, counts)
    every = json.dumps(list(set().union(*words.values())))
    df = {
        term: count for term, count in connection.execute(_FREQUENCIES, wanted | {"words": every})
    }
    idf = {  # what the question says twice counts twice
        language: {
            term: said * weight(counts.total(), df.get(term, 0)) for term, said in terms.items()
        }
        for language, terms in words.items()
    }
    picked: dict[str, float] = {}  # the rarest, as many as have no more postings than the budget
    for language, held in idf.items():
        budget = BUDGET * max(counts[language] / counts.total(), 0.1)
        for at, term in enumerate(
            sorted(held.keys() & df, key=lambda term: (df[term], term))[:MOST_TERMS]
        ):
            budget -= df[term]
            if budget >= 0 or at < FEWEST_TERMS:
                picked[term] = held[term]
    average = {language: lengths[language] / count for language, count in counts.items()}
    return Weights(
        tenant,
        dict.fromkeys(Space(tenant, row.name, row.generation) for row in rows),
        idf,
        average,
        picked,
    )


def scored(connection: Connection, weights: Weights, numbers: Collection[int]) -> list[Scored]:
    """Return these chunks with their BM25, best first, ties by number; those outside the spaces or that may not be shown are left out."""
    found = []
    rows = connection.execute(
        _FEATURES, {"tenant": weights.tenant, "numbers": json.dumps(list(numbers))}
    )
    for number, collection, generation, language, tokens, length, vector in rows:
        if (weights.tenant, collection, generation) in weights.spaces:
            held, average = weights.idf.get(language, {}), weights.average.get(language, 0)
            found.append(
                Scored(
                    number,
                    generation,
                    vector,
                    *bm25(held, tokens.split(" "), length=length, average=average),
                )
            )
    return sorted(found, key=lambda one: (-one.bm25, one.number))


def search(connection: Connection, weights: Weights, limit: int) -> list[Scored]:
    """Return at most `limit` chunks, best first, ties by number, of those that the index takes for the best."""
    if not weights.picked:
        return []
    scopes = _any(map(scope, weights.spaces))
    if len(weights.picked) <= FEWEST_TERMS:
        query = (
            "select rowid from chunk_words where chunk_words match ? order by rank, rowid limit ?"
        )
        values: list[float | str] = [f"{scopes} AND {_any(weights.picked)}"]
    else:  # the weights of the terms that a chunk holds are added: a third of the time of FTS5's own rank
        each = " union all ".join(
            ["select rowid as number, ? as weight from chunk_words where chunk_words match ?"]
            * len(weights.picked)
        )
        query = f"select number from ({each}) held group by number order by sum(weight) desc, number limit ?"
        values = [
            value
            for term, weight in weights.picked.items()
            for value in (weight, f"{scopes} AND {_any([term])}")
        ]
    numbers = (
        connection.exec_driver_sql(query, (*values, max(2 * limit, CANDIDATES))).scalars().all()
    )
    return scored(connection, weights, numbers)[:limit]


def _any(tokens: Iterable[str]) -> str:
    return "(" + " OR ".join(f'"{token}"' for token in tokens) + ")"

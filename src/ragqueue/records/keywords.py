"""Keyword search over the tokens of chunks: candidates from the database's index, ranked by true BM25.

The index is FTS5 over `chunks.tokens`, kept by triggers, so a delete is a delete.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, text

from ragqueue.errors import NotFound
from ragqueue.language import bm25
from ragqueue.language.tokens import tokenize
from ragqueue.records.chunks import Features, Space, features, scope

BUDGET = 10_000  # postings that are walked for a question: the same ranking as all of them, at a fifth of the time
FEWEST_TERMS = 2
MOST_TERMS = 12
CANDIDATES = 200  # what the index's own ranking finds is ranked again

SQLITE_DDL = [
    # `ascii` with "_" splits at our spaces only. The content stays in `chunks`: contentless tables rank wrongly.
    "create virtual table chunk_words using fts5(tokens, content='chunks', content_rowid='number', tokenize=\"ascii tokenchars '_'\")",
    # What is deleted leaves the index's pages at once. SQLite below 3.42 does not know this.
    "insert into chunk_words (chunk_words, rank) select 'secure-delete', 1 where cast(substr(sqlite_version(), 3) as real) >= 42",
    "create trigger chunk_words_insert after insert on chunks begin "
    "insert into chunk_words (rowid, tokens) values (new.number, new.tokens); end",
    "create trigger chunk_words_delete after delete on chunks begin "
    "insert into chunk_words (chunk_words, rowid, tokens) values ('delete', old.number, old.tokens); end",
    "create trigger chunk_words_update after update of tokens on chunks begin "
    "insert into chunk_words (chunk_words, rowid, tokens) values ('delete', old.number, old.tokens); "
    "insert into chunk_words (rowid, tokens) values (new.number, new.tokens); end",
]
# Lists travel as JSON: SQLAlchemy's `in_` took 2 ms of CPU a question.
_WANTED = "c.tenant = :tenant and (:names is null or c.name in (select value from json_each(:names)))"
_SUMS = text(f"""
    select c.name, c.generation, s.language, s.chunks, s.length from collections c
    left join spaces s on s.tenant = c.tenant and s.collection = c.name and s.generation = c.generation where {_WANTED} order by c.name""")
_FREQUENCIES = text(f"""
    select t.term, sum(t.df) from collections c
    cross join terms t on t.tenant = c.tenant and t.collection = c.name and t.generation = c.generation
    where {_WANTED} and t.term in (select value from json_each(:words)) group by t.term""")


class Scored(NamedTuple):
    """A chunk with its score by words."""

    chunk: Features
    bm25: float
    part: float  # of the highest possible BM25, 0..1: comparable across questions


@dataclass(frozen=True, slots=True)
class Weights:
    """What the words of a question weigh in some spaces of a tenant, for each language spoken there."""

    tenant: str
    spaces: Collection[Space]
    idf: Mapping[str, Mapping[str, float]]  # language -> term -> weight
    average: Mapping[str, float]  # language -> tokens of a chunk
    picked: Mapping[str, float]  # the terms to look up

    def scored(self, found: Iterable[Features]) -> list[Scored]:
        """Return these chunks with their BM25, best first, ties by number."""
        bounds = {language: bm25.bound(held) for language, held in self.idf.items()}
        scored = []
        for chunk in found:
            held, average = self.idf.get(chunk.language, {}), self.average.get(chunk.language, 0)
            score = bm25.score(held, chunk.tokens.split(" "), length=chunk.length, average=average)
            scored.append(Scored(chunk, score, score / bounds[chunk.language] if score else 0.0))
        return sorted(scored, key=lambda one: (-one.bm25, one.chunk.number))


def weigh(connection: Connection, tenant: str, names: Sequence[str] | None, question: str) -> Weights:
    """Tokenise a question once for each language of these collections (None: of all of the tenant's), and weigh its words.

    Raises NotFound for a collection that the tenant does not have.
    """
    wanted = {"tenant": tenant, "names": None if names is None else json.dumps(names)}
    rows = connection.execute(_SUMS, wanted).all()
    if missing := set(names or ()).difference(row.name for row in rows):
        raise NotFound(f"there is no collection {min(missing)!r}: add a document to it first, or leave the collection out")
    counts, lengths = Counter[str](), Counter[str]()
    for _, _, language, count, length in rows:
        if language is not None:
            counts[language] += count
            lengths[language] += length
    words = {language: set(tokenize(question, language)) for language in counts}
    every = json.dumps(list(set().union(*words.values())))
    df = {term: count for term, count in connection.execute(_FREQUENCIES, wanted | {"words": every})}
    idf = {language: {term: bm25.idf(counts.total(), df.get(term, 0)) for term in held} for language, held in words.items()}
    picked: dict[str, float] = {}
    for language, held in idf.items():
        budget = BUDGET * max(counts[language] / counts.total(), 0.1)
        picked |= {term: held[term] for term in _rarest({term: df[term] for term in held if term in df}, budget)}
    average = {language: lengths[language] / count for language, count in counts.items()}
    return Weights(tenant, dict.fromkeys(Space(row.name, row.generation) for row in rows), idf, average, picked)


def _rarest(df: Mapping[str, int], budget: float) -> Iterator[str]:
    """Yield the rarest terms, as many as have no more postings than the budget."""
    for at, term in enumerate(sorted(df, key=lambda term: (df[term], term))[:MOST_TERMS]):
        budget -= df[term]
        if budget < 0 and at >= FEWEST_TERMS:
            return
        yield term


def search(connection: Connection, weights: Weights, limit: int) -> list[Scored]:
    """Return at most `limit` chunks, best first, ties by number."""
    numbers = _candidates(connection, weights, max(2 * limit, CANDIDATES))
    return weights.scored(features(connection, weights.tenant, weights.spaces, numbers))[:limit]


def _candidates(connection: Connection, weights: Weights, limit: int) -> list[int]:
    """Return the numbers of the chunks that are likely to have the highest BM25, out of SQLite's index.

    Of several terms, the weights of those that a chunk holds are added: a third of the time of FTS5's own rank,
    which tells more where one or two terms are all there is.
    """
    picked = weights.picked
    if not picked:
        return []
    scopes = _any(scope(weights.tenant, space) for space in weights.spaces)
    values: list[float | str] = [f"{scopes} AND {_any(picked)}"]
    query = "select rowid from chunk_words where chunk_words match ? order by rank, rowid limit ?"
    if len(picked) > FEWEST_TERMS:
        each = " union all ".join(["select rowid as number, ? as weight from chunk_words where chunk_words match ?"] * len(picked))
        query = f"select number from ({each}) held group by number order by sum(weight) desc, number limit ?"
        values = [value for term, weight in picked.items() for value in (weight, f"{scopes} AND {_any([term])}")]
    return list(connection.exec_driver_sql(query, (*values, limit)).scalars())


def _any(tokens: Iterable[str]) -> str:
    return "(" + " OR ".join(f'"{token}"' for token in tokens) + ")"

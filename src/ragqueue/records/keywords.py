"""Keyword search over the tokens of chunks: candidates from the database's index, ranked by true BM25.

On SQLite the index is FTS5 over `chunks.tokens`, kept by triggers, so a delete is a delete.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, func, select, tuple_

from ragqueue.language import bm25
from ragqueue.language.tokens import tokenize
from ragqueue.records.chunks import Features, Space, features, scope
from ragqueue.records.schema import spaces as sums
from ragqueue.records.schema import terms

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


class Scored(NamedTuple):
    """A chunk with its score by words."""

    chunk: Features
    bm25: float
    part: float  # of the highest possible BM25, 0..1: comparable across questions


@dataclass(frozen=True, slots=True)
class Weights:
    """What the words of a question weigh in some spaces of a tenant, for each language spoken there."""

    tenant: str
    spaces: Sequence[Space]
    idf: Mapping[str, Mapping[str, float]]  # language -> term -> weight
    average: Mapping[str, float]  # language -> tokens of a chunk
    share: Mapping[str, float]  # language -> part of all chunks
    df: Mapping[str, int]  # of the terms that occur

    def scored(self, found: Iterable[Features]) -> list[Scored]:
        """Return these chunks with their BM25, best first, ties by number."""
        bounds = {language: bm25.bound(held) for language, held in self.idf.items()}
        scored = []
        for chunk in found:
            held, average = self.idf.get(chunk.language, {}), self.average.get(chunk.language, 0)
            score = bm25.score(held, chunk.tokens.split(" "), length=chunk.length, average=average)
            scored.append(Scored(chunk, score, score / bounds[chunk.language] if score else 0.0))
        return sorted(scored, key=lambda one: (-one.bm25, one.chunk.number))


def weigh(connection: Connection, tenant: str, spaces: Sequence[Space], question: str) -> Weights:
    """Tokenise a question once for each language of the spaces, and weigh its words by how rare they are there."""
    query = (
        select(sums.c.language, func.sum(sums.c.chunks), func.sum(sums.c.length))
        .where(sums.c.tenant == tenant, tuple_(sums.c.collection, sums.c.generation).in_(spaces))
        .group_by(sums.c.language)
    )
    spoken = {language: (int(count), int(length)) for language, count, length in connection.execute(query)}
    total = sum(count for count, _ in spoken.values())
    words = {language: set(tokenize(question, language)) for language in spoken}
    df = _frequencies(connection, tenant, spaces, set().union(*words.values()))
    return Weights(
        tenant,
        spaces,
        idf={language: {term: bm25.idf(total, df.get(term, 0)) for term in held} for language, held in words.items()},
        average={language: length / count for language, (count, length) in spoken.items()},
        share={language: count / total for language, (count, _) in spoken.items()},
        df=df,
    )


def _frequencies(connection: Connection, tenant: str, spaces: Sequence[Space], held: Iterable[str]) -> dict[str, int]:
    query = (
        select(terms.c.term, func.sum(terms.c.df))
        .where(terms.c.tenant == tenant, tuple_(terms.c.collection, terms.c.generation).in_(spaces), terms.c.term.in_(sorted(held)))
        .group_by(terms.c.term)
    )
    return {term: int(df) for term, df in connection.execute(query)}


def chosen(weights: Weights) -> dict[str, float]:
    """Return the terms to look up, with their weights: of each language the rarest ones, within its share of the budget."""
    picked: dict[str, float] = {}
    for language, held in weights.idf.items():
        left = BUDGET * max(weights.share[language], 0.1)
        known = sorted((weights.df[term], term) for term in held if term in weights.df)
        for at, (df, term) in enumerate(known[:MOST_TERMS]):
            left -= df
            if left < 0 and at >= FEWEST_TERMS:
                break
            picked[term] = held[term]
    return picked


def candidates(connection: Connection, weights: Weights, limit: int = CANDIDATES) -> list[int]:
    """Return the numbers of the chunks that are likely to have the highest BM25, out of SQLite's index.

    Of several terms, the weights of those that a chunk holds are added: a third of the time of FTS5's own rank,
    which tells more where one or two terms are all there is.
    """
    picked = chosen(weights)
    if not picked:
        return []
    scopes = f"({_any(scope(weights.tenant, space) for space in weights.spaces)})"
    if len(picked) <= FEWEST_TERMS:
        query = "select rowid from chunk_words where chunk_words match ? order by rank, rowid limit ?"
        return [number for (number,) in connection.exec_driver_sql(query, (f"{scopes} AND ({_any(picked)})", limit))]
    each = " union all ".join(["select rowid as number, ? as weight from chunk_words where chunk_words match ?"] * len(picked))
    query = f"select number from ({each}) held group by number order by sum(weight) desc, number limit ?"
    values = [value for term, weight in picked.items() for value in (weight, f"{scopes} AND {_any([term])}")]
    return [number for (number,) in connection.exec_driver_sql(query, (*values, limit))]


def _any(tokens: Iterable[str]) -> str:
    return " OR ".join(f'"{token}"' for token in tokens)


def search(connection: Connection, weights: Weights, limit: int) -> list[Scored]:
    """Return at most `limit` chunks, best first, ties by number."""
    numbers = candidates(connection, weights, max(2 * limit, CANDIDATES))
    return weights.scored(features(connection, weights.tenant, weights.spaces, numbers))[:limit]

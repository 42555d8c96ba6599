"""Chunks: their sums, and who may see them."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from ragqueue.ingestion.reading import row_of
from ragqueue.language.tokens import tokenize
from ragqueue.records import chunks, keywords
from ragqueue.types import Chunk, Passage, Space
from tests.library import GENERATION, add, hide
from tests.tables import documents, removals, spaces, terms

pytestmark = pytest.mark.usefixtures("each_database")
DEFAULT = [Space(tenant="acme", collection="default", generation=GENERATION)]
SPACE = Space(tenant="acme", collection="default", generation="g")


def scored(
    connection: Connection, tenant: str, spaces: list[Space], numbers: list[int]
) -> list[int]:
    weights = keywords.Weights(tenant, spaces, idf={}, average={}, picked={})
    return [scored.number for scored in keywords.scored(connection, weights, numbers)]


def test_a_chunk_comes_back_with_its_text_sliced_by_code_points(connection: Connection) -> None:
    numbers = add(connection, "d", "Grüße 🐙 aus\nKöln 🎉 heute")

    loaded = chunks.load(connection, "acme", [numbers[1]])

    assert loaded == [
        Chunk(
            number=numbers[1],
            document_id="d",
            version=1,
            start=12,
            end=24,
            text="Köln 🎉 heute"[:12],
            title="",
            source="d.md",
            heading_path=("Part", "One"),
            page=3,
            language="en",
        )
    ]


def test_chunks_come_back_in_the_order_asked_for(connection: Connection) -> None:
    numbers = add(connection, "d", "one\ntwo\nthree")

    loaded = chunks.load(connection, "acme", numbers[::-1])

    assert [chunk.text for chunk in loaded] == ["three", "two", "one"]


def test_another_tenant_sees_nothing(connection: Connection) -> None:
    numbers = add(connection, "d", "secret")

    assert chunks.load(connection, "other", numbers) == []
    assert scored(connection, "other", DEFAULT, numbers) == []


def test_scores_keep_to_the_spaces(connection: Connection) -> None:
    numbers = add(connection, "d", "one") + add(connection, "e", "two", collection="other")

    assert scored(connection, "acme", DEFAULT, numbers) == numbers[:1]


def test_a_hidden_document_is_gone_before_its_chunks_are(connection: Connection) -> None:
    numbers = add(connection, "d", "secret")

    hide(connection, "d")

    assert chunks.load(connection, "acme", numbers) == []
    assert scored(connection, "acme", DEFAULT, numbers) == []


def test_only_the_current_version_is_shown(connection: Connection) -> None:
    old = add(connection, "d", "old words")
    new = add(connection, "d", "new words", version=2)

    assert [chunk.text for chunk in chunks.load(connection, "acme", old + new)] == ["new words"]


def test_numbers_are_never_used_again(connection: Connection) -> None:
    first = add(connection, "d", "one")
    chunks.remove(connection, "acme", "d")

    assert add(connection, "e", "two")[0] > first[0]


def test_a_removed_vector_is_left_for_replicas_to_forget(connection: Connection) -> None:
    row = row_of(Passage(text="text", start=0, end=4), "text", "en")
    numbers = chunks.insert(connection, SPACE, "d", 1, "en", [(row, b"\0\0"), (row, None)])

    chunks.remove(connection, "acme", "d")

    left = connection.execute(removals.select()).all()
    assert [(row.tenant, row.collection, row.generation, row.number) for row in left] == [
        ("acme", "default", "g", numbers[0])
    ]
    assert left[0].at > 0


WORDS = st.lists(
    st.sampled_from(["cat", "dog", "cats", "running", "the", "猫咪", "x1"]), max_size=8
).map(" ".join)
STEPS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["en", "de"]),
        st.lists(WORDS, min_size=1, max_size=4),
    ),
    max_size=8,
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(STEPS)
def test_the_sums_are_what_a_recount_finds(
    connection: Connection, steps: list[tuple[str, str, list[str]]]
) -> None:
    held: dict[str, tuple[str, list[list[str]]]] = {}
    for document_id in "abc":
        chunks.remove(connection, "acme", document_id)
    for document_id, language, texts in steps:
        chunks.remove(connection, "acme", document_id)
        passages = [Passage(text=text, start=0, end=len(text)) for text in texts]
        rows = [(row_of(passage, passage.text, language), None) for passage in passages]
        chunks.insert(connection, SPACE, document_id, 1, language, rows)
        held[document_id] = (language, [tokenize(text, language) for text in texts])

    frequencies = Counter(
        term for _, texts in held.values() for tokens in texts for term in set(tokens)
    )
    counts: Counter[str] = Counter()
    lengths: Counter[str] = Counter()
    for language, texts in held.values():
        counts[language] += len(texts)
        lengths[language] += sum(map(len, texts))
    assert {row.term: row.df for row in connection.execute(terms.select())} == dict(frequencies)
    found = {row.language: (row.chunks, row.length) for row in connection.execute(spaces.select())}
    assert found == {
        language: (count, lengths[language]) for language, count in counts.items() if count
    }


def test_an_undone_transaction_leaves_no_sums(connection: Connection) -> None:
    add(connection, "d", "cat dog")

    connection.exec_driver_sql("ROLLBACK")
    connection.exec_driver_sql("BEGIN")

    assert connection.execute(terms.select()).all() == []
    assert connection.execute(documents.select()).all() == []

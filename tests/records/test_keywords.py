"""Keyword search: exact where everything fits, apart where it must be, and nothing left behind."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from ragqueue.errors import NotFound
from ragqueue.language.tokens import tokenize
from ragqueue.records import chunks, keywords
from ragqueue.types import Space
from tests.library import GENERATION, add, hide

pytestmark = pytest.mark.usefixtures("each_database")
DEFAULT = [Space(tenant="acme", collection="default", generation=GENERATION)]


def found(
    connection: Connection, question: str, *, tenant: str = "acme", names: list[str] | None = None
) -> list[int]:
    weights = keywords.weigh(connection, tenant, names, question)
    return [result.number for result in keywords.search(connection, weights, 10)]


def exact(texts: dict[int, str], question: str) -> dict[int, float]:
    """BM25 of every text, straight from the textbook."""
    tokens = {number: tokenize(text, "en") for number, text in texts.items()}
    average = sum(map(len, tokens.values())) / len(tokens)
    scores = {}
    for number, held in tokens.items():
        total = 0.0
        for term in tokenize(question, "en"):  # each as often as it is said
            df = sum(term in other for other in tokens.values())
            weight = math.log(1 + (len(tokens) - df + 0.5) / (df + 0.5))
            count = held.count(term)
            total += (
                weight * 2.2 * count / (count + 1.2 * (0.25 + 0.75 * len(held) / (average or 1)))
            )
        if total:
            scores[number] = total
    return scores


WORDS = st.sampled_from(["apple", "pear", "plum", "fig", "lime", "date", "kiwi", "nut", "the"])
TEXTS = st.lists(st.lists(WORDS, max_size=9).map(" ".join), min_size=1, max_size=12)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(TEXTS, st.lists(WORDS, max_size=6).map(" ".join))
def test_the_ranking_is_that_of_exact_bm25(
    connection: Connection, texts: list[str], question: str
) -> None:
    chunks.remove(connection, "acme", "d")
    numbers = add(connection, "d", "\n".join(texts))

    weights = keywords.weigh(connection, "acme", ["default"], question)
    results = {result.number: result.bm25 for result in keywords.search(connection, weights, 50)}

    assert results == pytest.approx(exact(dict(zip(numbers, texts, strict=True)), question))
    assert list(results) == sorted(results, key=lambda number: (-results[number], number))


def test_tenants_with_the_same_words_are_apart(connection: Connection) -> None:
    mine = add(connection, "d", "zebra stripes")
    theirs = add(connection, "d", "zebra stripes", tenant="other")

    assert found(connection, "zebra") == mine
    assert found(connection, "zebra", tenant="other") == theirs


def test_collections_and_generations_are_apart(connection: Connection) -> None:
    add(connection, "a", "zebra", collection="one")
    kept = add(connection, "b", "zebra", collection="two")
    add(connection, "c", "zebra", collection="two", generation="building")

    assert found(connection, "zebra", names=["two"]) == kept


def test_a_tenant_has_only_its_own_collections(connection: Connection) -> None:
    add(connection, "d", "a", collection="mine")
    add(connection, "d", "b", tenant="other", collection="theirs")

    assert list(keywords.weigh(connection, "acme", None, "a").spaces) == [
        Space(tenant="acme", collection="mine", generation=GENERATION)
    ]
    assert list(keywords.weigh(connection, "acme", [], "a").spaces) == []
    with pytest.raises(NotFound, match="'theirs'"):
        keywords.weigh(connection, "acme", ["mine", "theirs"], "a")


def test_several_collections_are_searched_as_one(connection: Connection) -> None:
    numbers = add(connection, "a", "zebra", collection="one") + add(
        connection, "b", "zebra zebra", collection="two"
    )

    results = found(connection, "zebra", names=["one", "two"])

    assert sorted(results) == numbers


def test_a_text_cannot_forge_the_mark_of_a_space(connection: Connection) -> None:
    mark = chunks.scope(DEFAULT[0])
    add(connection, "d", f"zebra {mark} {mark[1:]}", tenant="other")

    assert found(connection, "zebra") == []
    assert found(connection, f"zebra {mark}") == []


def test_a_small_tenant_finds_its_own_among_many_of_others(connection: Connection) -> None:
    add(connection, "big", "\n".join(["zebra zebra"] * 500), tenant="big")
    mine = add(connection, "d", "one zebra in a long text about other animals")

    assert found(connection, "zebra") == mine


def test_a_removed_chunk_is_not_found(connection: Connection) -> None:
    add(connection, "d", "zebra\ngiraffe")
    kept = add(connection, "e", "zebra")

    chunks.remove(connection, "acme", "d")

    assert found(connection, "zebra giraffe") == kept


def test_a_hidden_document_is_not_found(connection: Connection) -> None:
    add(connection, "d", "zebra")
    kept = add(connection, "e", "zebra zebra")

    hide(connection, "d")

    assert found(connection, "zebra") == kept


def test_a_chinese_question_finds(connection: Connection) -> None:
    add(connection, "d", "天气很好", language="zh")
    wanted = add(connection, "e", "队列会保留每个任务直到结束", language="zh")

    assert found(connection, "任务什么时候结束？") == wanted


def test_a_question_is_understood_in_each_language_of_the_collection(
    connection: Connection,
) -> None:
    english = add(connection, "a", "several houses", language="en")
    german = add(connection, "b", "mehrere Häuser", language="de")

    assert found(connection, "Haus") == german
    assert found(connection, "house") == english


def test_a_stop_word_of_the_question_is_none_in_a_page_of_another_language(
    connection: Connection,
) -> None:
    add(connection, "a", "the the the", language="id")
    wanted = add(connection, "b", "zebra", language="en")

    weights = keywords.weigh(connection, "acme", ["default"], "the zebra")

    assert found(connection, "the zebra") == wanted
    assert set(weights.idf["id"]) == {"zebra"}


def test_a_question_of_stop_words_alone_keeps_those_of_other_languages(
    connection: Connection,
) -> None:
    wanted = add(connection, "a", "Not", language="de")

    assert found(connection, "not") == wanted


def test_a_word_that_the_question_repeats_counts_as_often(connection: Connection) -> None:
    horse, zebra = add(connection, "d", "horse lion\nzebra lion")

    assert found(connection, "horse zebra")[0] == horse  # a tie
    assert found(connection, "horse zebra, which zebra?")[0] == zebra


def test_a_part_stays_below_one_for_a_repeated_word(connection: Connection) -> None:
    numbers = add(connection, "d", "zebra zebra zebra zebra\nhorse")
    weights = keywords.weigh(connection, "acme", ["default"], "zebra zebra zebra horse")

    parts = [result.part for result in keywords.scored(connection, weights, numbers)]

    assert 0.5 < max(parts) < 1


def test_single_terms_rank_by_how_often_they_occur(connection: Connection) -> None:
    numbers = add(connection, "d", "\n".join(["zebra horse"] * 300 + ["zebra zebra"]))

    assert found(connection, "zebra")[0] == numbers[-1]


@pytest.mark.parametrize(
    "question",
    [
        "",
        "?!",
        "what is the",
        'zebra" OR "',
        "zebra*",
        "NEAR(a b)",
        "tokens: zebra",
        "zebra\x00\ud800",
    ],
)
def test_no_question_breaks_the_query(connection: Connection, question: str) -> None:
    numbers = add(connection, "d", "zebra")

    assert found(connection, question) == (numbers if "zebra" in question else [])


def test_the_rarest_terms_are_looked_up_within_the_budget(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(
        connection,
        "d",
        "\n".join(["alpha beta gamma delta", "beta gamma delta", "gamma delta", "delta"]),
    )
    monkeypatch.setattr(keywords, "BUDGET", 6)

    weights = keywords.weigh(connection, "acme", ["default"], "alpha beta gamma delta")

    assert list(weights.picked) == ["alpha", "beta", "gamma"]


def test_two_terms_are_looked_up_however_frequent(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(connection, "d", "alpha beta gamma")
    monkeypatch.setattr(keywords, "BUDGET", 0)

    weights = keywords.weigh(connection, "acme", ["default"], "alpha beta gamma")

    assert len(weights.picked) == keywords.FEWEST_TERMS


def test_a_part_says_how_much_of_the_question_a_chunk_covers(connection: Connection) -> None:
    numbers = add(connection, "d", "zebra zebra zebra zebra\nhorse")
    weights = keywords.weigh(connection, "acme", ["default"], "zebra")

    parts = {result.number: result.part for result in keywords.scored(connection, weights, numbers)}

    assert 0.5 < parts[numbers[0]] < 1
    assert parts[numbers[1]] == 0

"""BM25 by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragqueue.language.bm25 import K1, B, bound, idf, score


def test_a_text_of_average_length_scores_by_the_formula() -> None:
    weights = {"cat": idf(10, 2), "dog": idf(10, 0)}

    found = score(weights, ["cat", "sat", "cat"], length=3, average=3)

    assert found == pytest.approx(math.log(1 + 8.5 / 2.5) * 2 * (K1 + 1) / (2 + K1))


def test_longer_texts_score_less_for_the_same_words() -> None:
    norm = K1 * (1 - B + B * 2)

    assert score({"cat": 1.0}, ["cat"], length=6, average=3) == pytest.approx((K1 + 1) / (1 + norm))


def test_a_rare_term_weighs_more_and_an_unknown_one_most() -> None:
    assert idf(100, 0) > idf(100, 1) > idf(100, 50) > idf(100, 100) > 0


@given(st.lists(st.sampled_from("abcdef"), min_size=1), st.floats(0.1, 100))
def test_no_text_reaches_the_bound(tokens: list[str], average: float) -> None:
    weights = {"a": 1.0, "b": 0.5}

    assert 0 <= score(weights, tokens, length=len(tokens), average=average) < bound(weights)


def test_without_terms_everything_is_nothing() -> None:
    assert score({}, ["a"], length=1, average=0) == bound({}) == 0

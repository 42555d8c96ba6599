"""BM25 by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragqueue.language.bm25 import K1, B, bm25, weight


def test_a_text_of_average_length_scores_by_the_formula() -> None:
    weights = {"cat": weight(10, 2), "dog": weight(10, 0)}

    found, _ = bm25(weights, ["cat", "sat", "cat"], length=3, average=3)

    assert found == pytest.approx(math.log(1 + 8.5 / 2.5) * 2 * (K1 + 1) / (2 + K1))


def test_longer_texts_score_less_for_the_same_words() -> None:
    norm = K1 * (1 - B + B * 2)

    assert bm25({"cat": 1.0}, ["cat"], length=6, average=3) == pytest.approx(
        ((K1 + 1) / (1 + norm), 1 / (1 + norm))
    )


def test_a_rare_term_weighs_more_and_an_unknown_one_most() -> None:
    assert weight(100, 0) > weight(100, 1) > weight(100, 50) > weight(100, 100) > 0


@given(st.lists(st.sampled_from("abcdef"), min_size=1), st.floats(0.1, 100))
def test_no_text_reaches_the_highest(tokens: list[str], average: float) -> None:
    weights = {"a": 1.0, "b": 0.5}

    found, part = bm25(weights, tokens, length=len(tokens), average=average)

    assert 0 <= part < 1
    assert found == pytest.approx(part * 1.5 * (K1 + 1))


def test_without_terms_everything_is_nothing() -> None:
    assert bm25({}, ["a"], length=1, average=0) == (0, 0)

"""The arithmetic of fusion, by hand."""

import numpy as np
import pytest

from ragqueue.retrieval.fused import Floats, fuse, standardised

NAN = float("nan")


def values(*numbers: float) -> Floats:
    return np.array(numbers, dtype=np.float64)


def test_both_scores_are_standardised_and_weighed() -> None:
    cosines, bm25 = values(0.1, 0.2, 0.3, 0.4, 0.5), values(10, 0, 0, 0, 5)

    fused = fuse(cosines, bm25, bm25 / 20)

    by_hand = 0.4 * (cosines - 0.3) / np.sqrt(0.02) + 0.6 * (bm25 - 3) / 4
    assert fused == pytest.approx(by_hand)
    assert list(np.argsort(-fused)) == [4, 0, 3, 2, 1]


def test_words_outweigh_vectors() -> None:
    fused = fuse(values(1, 0, 0, 0, 0), values(0, 9, 0, 0, 0), values(0, 1, 0, 0, 0))

    assert int(np.argmax(fused)) == 1


def test_a_list_that_does_not_tell_candidates_apart_counts_nothing() -> None:
    cosines = values(0.5, 0.4, 0.3, 0.2, 0.1)

    fused = fuse(cosines, values(0, 0, 0, 0, 0), values(0, 0, 0, 0, 0))

    assert fused == pytest.approx(0.4 * standardised(cosines))


def test_without_vectors_bm25_is_the_score() -> None:
    assert list(fuse(values(NAN, NAN), values(2, 3), values(0.1, 0.2))) == [2, 3]


def test_a_candidate_without_a_vector_counts_as_average() -> None:
    fused = fuse(values(0.9, 0.5, 0.1, NAN, NAN), values(0, 0, 0, 0, 0), values(0, 0, 0, 0, 0))

    assert fused[3] == fused[4] == 0
    assert fused[0] > 0 > fused[2]


def test_few_candidates_are_ranked_on_fixed_scales() -> None:
    fused = fuse(values(0.9, -0.2), values(1.0, 1.1), values(0.50, 0.55))

    assert list(fused) == pytest.approx([0.4 * 0.9 + 0.6 * 0.50, 0.6 * 0.55])


def test_nothing_fuses_to_nothing() -> None:
    assert fuse(values(), values(), values()).tolist() == []

"""Rank texts by the words that they share with a question: BM25 (Robertson and Zaragoza, 2009)."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

K1, B = 1.2, 0.75  # of BM25


def weight(count: int, df: int) -> float:
    """Return the weight of a term that `df` of `count` texts hold; positive, and finite for an unknown term."""
    return math.log1p((max(count - df, 0) + 0.5) / (df + 0.5))


def bm25(
    weights: Mapping[str, float], tokens: Iterable[str], *, length: int, average: float
) -> tuple[float, float]:
    """Return the BM25 of a text of `length` tokens (mean: `average`) for terms of these weights, and its part of the highest, 0..1."""
    held = Counter(filter(weights.__contains__, tokens))
    norm = K1 * (1 - B + B * length / average) if average > 0 else K1
    found = sum(weights[term] * count / (count + norm) for term, count in held.items())
    return found * (K1 + 1), found / sum(weights.values()) if found else 0.0

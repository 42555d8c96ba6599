"""Rank texts by the words that they share with a question: BM25 (Robertson and Zaragoza, 2009)."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

# The constants of BM25.
K1 = 1.2
B = 0.75


def weight(count: int, df: int) -> float:
    """Return the weight of a term that `df` of `count` texts hold.

    It is positive, and finite for an unknown term.
    """
    return math.log1p((max(count - df, 0) + 0.5) / (df + 0.5))


def bm25(
    weights: Mapping[str, float], tokens: Iterable[str], *, length: int, average: float
) -> tuple[float, float]:
    """Return the BM25 of a text for terms of these weights, and its part of the highest, 0..1.

    The text has `length` tokens; the mean of all texts is `average`.
    """
    norm = K1
    if average > 0:
        norm = K1 * (1 - B + B * length / average)
    counts = Counter(filter(weights.__contains__, tokens))
    total = sum(weights[term] * count / (count + norm) for term, count in counts.items())
    if not total:
        return 0.0, 0.0
    return total * (K1 + 1), total / sum(weights.values())

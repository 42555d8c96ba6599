"""The one formula of keyword ranking, in pure Python."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

K1 = 1.2
B = 0.75


def idf(count: int, df: int) -> float:
    """Return the weight of a term that `df` of `count` texts hold; positive, and finite for an unknown term."""
    return math.log1p((max(count - df, 0) + 0.5) / (df + 0.5))


def score(weights: Mapping[str, float], tokens: Iterable[str], *, length: int, average: float) -> float:
    """Return the BM25 of a text of `length` tokens for a question whose terms have these idf weights.

    `average` is the mean length of the texts; 0 when there are none.
    """
    held = Counter(filter(weights.__contains__, tokens))
    norm = K1 * (1 - B + B * length / average) if average > 0 else K1
    return sum(weights[term] * (K1 + 1) * count / (count + norm) for term, count in held.items())


def bound(weights: Mapping[str, float]) -> float:
    """Return what no text's BM25 can reach for these weights; 0 without terms."""
    return sum(weights.values()) * (K1 + 1)

"""Measure retrieval on judged questions: a folder of corpus.jsonl, queries.jsonl and qrels.tsv."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ragqueue.errors import InvalidRequest

LIMIT = 10  # documents that count
Judgments = Mapping[
    str, Mapping[str, float]
]  # question id -> document id -> relevance, 0 is not relevant


class Text(NamedTuple):
    id: str
    text: str
    title: str


def evaluate(run: Mapping[str, Sequence[str]], judgments: Judgments) -> dict[str, float]:
    """Return the mean scores of a run (question id -> document ids, best first); an unanswered question counts as 0."""
    discounts, scores = 1 / np.log2(np.arange(LIMIT) + 2), list[tuple[float, float, float]]()
    for asked, relevant in judgments.items():
        ideal = np.sort([gain for gain in relevant.values() if gain > 0])[::-1]
        gains = np.array(
            [relevant.get(document_id, 0.0) for document_id in dict.fromkeys(run.get(asked, ()))]
        )[:LIMIT]
        found = np.flatnonzero(gains > 0)
        if len(ideal):
            ndcg = float(
                gains @ discounts[: len(gains)] / (ideal[:LIMIT] @ discounts[: len(ideal)])
            )
            scores.append(
                (ndcg, len(found) / len(ideal), 1 / (1 + found[0]) if len(found) else 0.0)
            )
    if not scores:
        raise InvalidRequest(
            "no question has a relevant document: qrels.tsv needs a relevance above 0"
        )
    ndcg, recall, mrr = np.mean(scores, axis=0).round(4).tolist()
    return {
        "queries": len(scores),
        f"ndcg@{LIMIT}": ndcg,
        f"recall@{LIMIT}": recall,
        f"mrr@{LIMIT}": mrr,
    }


def read_folder(folder: Path) -> tuple[list[Text], list[Text], Judgments]:
    """Return the corpus, the judged questions and the judgments. Raises InvalidRequest, which names file and line."""
    corpus, questions = (
        [_text(*line) for line in _lines(folder / name)]
        for name in ("corpus.jsonl", "queries.jsonl")
    )
    known, asked = ({text.id for text in texts} for texts in (corpus, questions))
    judgments: dict[str, dict[str, float]] = defaultdict(dict)
    for place, line in list(_lines(folder / "qrels.tsv"))[1:]:  # after the header
        try:
            question_id, document_id, relevance = line.split("\t")[:3]
            judgments[question_id][document_id] = float(relevance)
        except ValueError as error:
            raise InvalidRequest(
                f"{place} needs question, document and a number, separated by tabs, but is {line!r}"
            ) from error
        if question_id not in asked or document_id not in known:
            missing = (
                f"question {question_id!r}"
                if question_id not in asked
                else f"document {document_id!r}"
            )
            raise InvalidRequest(f"{place} judges {missing}, which is not in the set")
    return corpus, [text for text in questions if text.id in judgments], judgments


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, line) of the lines that are not empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"{str(path)!r} cannot be read: a set is corpus.jsonl, queries.jsonl, qrels.tsv in UTF-8 ({error})"
        ) from error
    yield from (
        (f"{path.name}, line {number}", line.rstrip("\r"))
        for number, line in enumerate(lines, 1)
        if line.strip()
    )


def _text(place: str, line: str) -> Text:
    with suppress(ValueError):
        match json.loads(line):
            case {"id": str() | int() as key, "text": str() as text, **row} | {
                "_id": str() | int() as key,
                "text": str() as text,
                **row,
            }:
                return Text(str(key), text, str(row.get("title") or ""))
    raise InvalidRequest(
        f'{place} must be JSON with "id" and "text" (and may have "title"), but is {line[:80]!r}'
    )

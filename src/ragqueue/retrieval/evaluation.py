"""Measure retrieval on judged questions: a folder of corpus.jsonl, queries.jsonl and qrels.tsv."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ragqueue.errors import InvalidRequest

LIMIT = 10  # documents that count
# Question id -> document id -> relevance, 0 is not relevant.
Judgments = Mapping[str, Mapping[str, float]]
_DISCOUNTS = 1 / np.log2(np.arange(LIMIT) + 2)  # of a gain at each place


class Text(NamedTuple):
    """A document of the corpus, or a question."""

    id: str
    text: str
    title: str


def evaluate(ranked: Mapping[str, Sequence[str]], judgments: Judgments) -> dict[str, float]:
    """Return the mean scores of rankings (question id -> document ids, best first).

    A question without a ranking counts as 0, one without a relevant document not at all.
    Raises InvalidRequest when no question has a relevant document.
    """
    scores = []
    for question_id, relevant in judgments.items():
        if any(gain > 0 for gain in relevant.values()):
            scores.append(_scores(ranked.get(question_id, ()), relevant))
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


def _scores(
    document_ids: Sequence[str], relevant: Mapping[str, float]
) -> tuple[float, float, float]:
    """Return nDCG, recall and reciprocal rank of one ranking, by its first `LIMIT` documents."""
    # A document stands at its best place only.
    first = list(dict.fromkeys(document_ids))[:LIMIT]
    gains = np.array([relevant.get(document_id, 0.0) for document_id in first])
    ideal = np.sort([gain for gain in relevant.values() if gain > 0])[::-1]
    ideal_gain = ideal[:LIMIT] @ _DISCOUNTS[: len(ideal)]
    ndcg = float(gains @ _DISCOUNTS[: len(gains)] / ideal_gain)

    places = np.flatnonzero(gains > 0)
    if len(places) == 0:
        return ndcg, 0.0, 0.0
    return ndcg, len(places) / len(ideal), 1 / (1 + places[0])


def read_folder(folder: Path) -> tuple[list[Text], list[Text], Judgments]:
    """Return the corpus, the judged questions and the judgments.

    Raises InvalidRequest, which names file and line.
    """
    corpus = _texts(folder / "corpus.jsonl")
    questions = _texts(folder / "queries.jsonl")
    judgments = _judgments(
        folder / "qrels.tsv",
        question_ids={question.id for question in questions},
        document_ids={document.id for document in corpus},
    )
    judged = [question for question in questions if question.id in judgments]
    return corpus, judged, judgments


def _judgments(
    path: Path, *, question_ids: Collection[str], document_ids: Collection[str]
) -> Judgments:
    judgments: dict[str, dict[str, float]] = defaultdict(dict)
    rows = list(_lines(path))[1:]  # after the header
    for place, line in rows:
        question_id, document_id, relevance = _judgment(place, line)
        if question_id not in question_ids:
            raise InvalidRequest(
                f"{place} judges question {question_id!r}, which is not in the set"
            )
        if document_id not in document_ids:
            raise InvalidRequest(
                f"{place} judges document {document_id!r}, which is not in the set"
            )
        judgments[question_id][document_id] = relevance
    return judgments


def _judgment(place: str, line: str) -> tuple[str, str, float]:
    try:
        question_id, document_id, relevance = line.split("\t")[:3]
        return question_id, document_id, float(relevance)
    except ValueError as error:
        raise InvalidRequest(
            f"{place} needs question, document and a number, separated by tabs, but is {line!r}"
        ) from error


def _texts(path: Path) -> list[Text]:
    return [_text(place, line) for place, line in _lines(path)]


def _text(place: str, line: str) -> Text:
    """Return the text of a line. Raises InvalidRequest for what is no row of a set."""
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    match row:
        case {"id": str() | int() as text_id, "text": str() as text}:
            pass
        case {"_id": str() | int() as text_id, "text": str() as text}:
            pass
        case _:
            raise InvalidRequest(
                f'{place} must be JSON with "id" and "text" (and may have "title"), '
                f"but is {line[:80]!r}"
            )
    return Text(id=str(text_id), text=text, title=str(row.get("title") or ""))


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, line) of the lines that are not empty.

    Raises InvalidRequest for a file that cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"{str(path)!r} cannot be read: "
            f"a set is corpus.jsonl, queries.jsonl, qrels.tsv in UTF-8 ({error})"
        ) from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{path.name}, line {number}", line.rstrip("\r")

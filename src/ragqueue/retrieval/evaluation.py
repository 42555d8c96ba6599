"""Measure retrieval on judged questions: a folder of corpus.jsonl, queries.jsonl and qrels.tsv."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragqueue.errors import InvalidRequest

LIMIT = 10

Judgments = Mapping[str, Mapping[str, float]]  # question id -> document id -> relevance, 0 is not relevant


@dataclass(frozen=True, slots=True)
class Text:
    """A document or a question of a set."""

    id: str
    text: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """A corpus, questions over it, and which documents answer them."""

    corpus: Sequence[Text]
    questions: Sequence[Text]  # the judged ones only
    judgments: Judgments


@dataclass(frozen=True, slots=True)
class Scores:
    """Means over the judged questions, 0..1."""

    ndcg: float
    recall: float
    mrr: float
    questions: int


def ndcg(ranked: Sequence[str], relevant: Mapping[str, float], *, limit: int = LIMIT) -> float:
    """Return the discounted gain of the first `limit` documents over the best possible one."""
    best = sorted(relevant.values(), reverse=True)[:limit]
    ideal = sum(gain / math.log2(at + 2) for at, gain in enumerate(best))
    found = sum(relevant.get(document_id, 0) / math.log2(at + 2) for at, document_id in enumerate(ranked[:limit]))
    return found / ideal if ideal else 0.0


def recall(ranked: Sequence[str], relevant: Mapping[str, float], *, limit: int = LIMIT) -> float:
    """Return which part of the relevant documents is among the first `limit`."""
    wanted = {document_id for document_id, gain in relevant.items() if gain > 0}
    return len(wanted.intersection(ranked[:limit])) / len(wanted) if wanted else 0.0


def reciprocal_rank(ranked: Sequence[str], relevant: Mapping[str, float], *, limit: int = LIMIT) -> float:
    """Return 1 / the place of the first relevant document, 0 when it is not among the first `limit`."""
    return next((1 / (at + 1) for at, document_id in enumerate(ranked[:limit]) if relevant.get(document_id, 0) > 0), 0.0)


def evaluate(run: Mapping[str, Sequence[str]], judgments: Judgments) -> Scores:
    """Return the mean scores of a run (question id -> document ids, best first); an unanswered question counts as 0."""
    judged = [(run.get(question_id, ()), relevant) for question_id, relevant in judgments.items() if any(relevant.values())]
    if not judged:
        raise InvalidRequest("no question has a relevant document: qrels.tsv needs a relevance above 0")
    means = [sum(score(ranked, relevant) for ranked, relevant in judged) / len(judged) for score in (ndcg, recall, reciprocal_rank)]
    return Scores(means[0], means[1], means[2], len(judged))


def first_places(document_ids: Iterable[str]) -> list[str]:
    """Return the documents of a list of chunks, each at the place of its best chunk."""
    return list(dict.fromkeys(document_ids))


def read_folder(folder: Path) -> JudgedSet:
    """Return the judged set of a folder. Raises InvalidRequest, which names file and line."""
    corpus = [_text(*row) for row in _rows(folder / "corpus.jsonl")]
    questions = [_text(*row) for row in _rows(folder / "queries.jsonl")]
    judgments = _judgments(folder / "qrels.tsv", {text.id for text in corpus}, {text.id for text in questions})
    return JudgedSet(corpus, [text for text in questions if text.id in judgments], judgments)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, line) of the lines that are not empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise InvalidRequest(f"{str(path)!r} is missing: a set is corpus.jsonl, queries.jsonl and qrels.tsv") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{str(path)!r} cannot be read as UTF-8: {error}") from error
    return ((f"{path.name}, line {number}", line.rstrip("\r")) for number, line in enumerate(lines, 1) if line.strip())


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    for place, line in _lines(path):
        try:
            yield place, json.loads(line)
        except ValueError as error:
            raise InvalidRequest(f"{place} is not JSON: {error}") from error


def _text(place: str, row: Any) -> Text:
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not isinstance(row.get("id", row.get("_id")), str | int):
        raise InvalidRequest(f'{place} needs "id" and "text" (and may have "title"), but is {json.dumps(row)[:80]}')
    return Text(str(row.get("id", row.get("_id"))), row["text"], str(row.get("title") or ""))


def _judgments(path: Path, known: set[str], asked: set[str]) -> Judgments:
    judgments: dict[str, dict[str, float]] = {}
    for place, line in list(_lines(path))[1:]:  # after the header
        cells = line.split("\t")
        try:
            question_id, document_id, relevance = cells[0], cells[1], float(cells[2])
        except (IndexError, ValueError) as error:
            raise InvalidRequest(f"{place} needs question, document and a number, separated by tabs, but is {line!r}") from error
        if question_id not in asked or document_id not in known:
            missing = f"question {question_id!r}" if question_id not in asked else f"document {document_id!r}"
            raise InvalidRequest(f"{place} judges {missing}, which is not in the set")
        judgments.setdefault(question_id, {})[document_id] = relevance
    return judgments

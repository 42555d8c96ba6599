"""Measure retrieval on judged questions: a folder of corpus.jsonl, queries.jsonl and qrels.tsv."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ragqueue.errors import InvalidRequest

LIMIT = 10  # documents that count

Judgments = Mapping[str, Mapping[str, float]]  # question id -> document id -> relevance, 0 is not relevant


class Text(NamedTuple):
    """A document or a question of a set."""

    id: str
    text: str
    title: str


class JudgedSet(NamedTuple):
    """A corpus, the judged questions over it, and which documents answer them."""

    corpus: Sequence[Text]
    questions: Sequence[Text]
    judgments: Judgments


class Scores(NamedTuple):
    """Means over the judged questions, 0..1."""

    ndcg: float
    recall: float
    mrr: float
    questions: int


def ndcg(ranked: Sequence[str], relevant: Mapping[str, float]) -> float:
    """Return the discounted gain of the first documents over the best possible one."""

    def gain(found: Sequence[float]) -> float:
        return sum(one / math.log2(at + 2) for at, one in enumerate(found[:LIMIT]))

    ideal = gain(sorted(relevant.values(), reverse=True))
    return gain([relevant.get(document_id, 0) for document_id in ranked]) / ideal if ideal else 0.0


def recall(ranked: Sequence[str], relevant: Mapping[str, float]) -> float:
    """Return which part of the relevant documents is among the first."""
    wanted = {document_id for document_id, gain in relevant.items() if gain > 0}
    return len(wanted.intersection(ranked[:LIMIT])) / len(wanted) if wanted else 0.0


def reciprocal_rank(ranked: Sequence[str], relevant: Mapping[str, float]) -> float:
    """Return 1 / the place of the first relevant document, 0 when it is not among the first."""
    return next((1 / place for place, document_id in enumerate(ranked[:LIMIT], 1) if relevant.get(document_id, 0) > 0), 0.0)


def evaluate(run: Mapping[str, Sequence[str]], judgments: Judgments) -> Scores:
    """Return the mean scores of a run (question id -> document ids, best first); an unanswered question counts as 0."""
    judged = [(run.get(question_id, ()), relevant) for question_id, relevant in judgments.items() if any(relevant.values())]
    if not judged:
        raise InvalidRequest("no question has a relevant document: qrels.tsv needs a relevance above 0")
    means = [sum(score(*pair) for pair in judged) / len(judged) for score in (ndcg, recall, reciprocal_rank)]
    return Scores(means[0], means[1], means[2], len(judged))


def first_places(document_ids: Iterable[str]) -> list[str]:
    """Return the documents of a list of chunks, each at the place of its best chunk."""
    return list(dict.fromkeys(document_ids))


def read_folder(folder: Path) -> JudgedSet:
    """Return the judged set of a folder. Raises InvalidRequest, which names file and line."""
    corpus, questions = ([_text(*line) for line in _lines(folder / name)] for name in ("corpus.jsonl", "queries.jsonl"))
    known, asked = ({text.id for text in texts} for texts in (corpus, questions))
    judgments: dict[str, dict[str, float]] = defaultdict(dict)
    for place, line in list(_lines(folder / "qrels.tsv"))[1:]:  # after the header
        try:
            question_id, document_id, relevance = line.split("\t")[:3]
            judgments[question_id][document_id] = float(relevance)
        except ValueError as error:
            raise InvalidRequest(f"{place} needs question, document and a number, separated by tabs, but is {line!r}") from error
        if question_id not in asked or document_id not in known:
            missing = f"question {question_id!r}" if question_id not in asked else f"document {document_id!r}"
            raise InvalidRequest(f"{place} judges {missing}, which is not in the set")
    return JudgedSet(corpus, [text for text in questions if text.id in judgments], judgments)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, line) of the lines that are not empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise InvalidRequest(f"{str(path)!r} is missing: a set is corpus.jsonl, queries.jsonl and qrels.tsv") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{str(path)!r} cannot be read as UTF-8: {error}") from error
    yield from ((f"{path.name}, line {number}", line.rstrip("\r")) for number, line in enumerate(lines, 1) if line.strip())


def _text(place: str, line: str) -> Text:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InvalidRequest(f"{place} is not JSON: {error}") from error
    match row:
        case {"id": str() | int() as key, "text": str() as text} | {"_id": str() | int() as key, "text": str() as text}:
            return Text(str(key), text, str(row.get("title") or ""))
    raise InvalidRequest(f'{place} needs "id" and "text" (and may have "title"), but is {json.dumps(row)[:80]}')

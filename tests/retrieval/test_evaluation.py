"""Scores of retrieval by hand, and folders that are not what they should be."""

import math
from pathlib import Path

import pytest

from ragqueue.errors import InvalidRequest
from ragqueue.retrieval.evaluation import evaluate, read_folder

CORPUS = '{"id": "d1", "title": "One", "text": "first"}\n{"id": "d2", "text": "second"}\n'
QUERIES = '{"id": "q1", "text": "which?"}\n{"id": "q2", "text": "nobody judged this"}\n'
QRELS = "query\tdoc\trelevance\nq1\td1\t1\nq1\td2\t0\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in (
        ("corpus.jsonl", CORPUS),
        ("queries.jsonl", QUERIES),
        ("qrels.tsv", QRELS),
    ):
        (tmp_path / name).write_text(content, encoding="utf-8")
    return tmp_path


def scored(ranked: list[str], relevant: dict[str, float]) -> tuple[float, float, float]:
    """Return nDCG, recall and reciprocal rank of one question."""
    scores = evaluate({"q": ranked}, {"q": relevant})
    return scores["ndcg@10"], scores["recall@10"], scores["mrr@10"]


def test_ndcg_discounts_by_place() -> None:
    found, _, _ = scored(["x", "a", "b"], {"a": 1, "b": 1})

    assert found == pytest.approx(
        (1 / math.log2(3) + 1 / math.log2(4)) / (1 + 1 / math.log2(3)), abs=1e-4
    )


def test_ndcg_prefers_the_more_relevant_first() -> None:
    relevant = {"a": 2.0, "b": 1.0}

    assert scored(["a", "b"], relevant)[0] == 1
    assert scored(["b", "a"], relevant)[0] < 1


def test_only_the_first_ten_places_count() -> None:
    assert scored([f"x{n}" for n in range(10)] + ["a"], {"a": 1}) == (0, 0, 0)


def test_recall_counts_what_is_relevant_only() -> None:
    assert scored(["a", "c"], {"a": 1, "b": 1, "c": 0})[1] == 0.5


def test_the_reciprocal_rank_is_that_of_the_first_relevant_one() -> None:
    assert scored(["c", "a", "b"], {"a": 1, "b": 1, "c": 0})[2] == 0.5


def test_a_question_without_an_answer_counts_as_nothing_found() -> None:
    scores = evaluate({"q1": ["a"]}, {"q1": {"a": 1}, "q2": {"b": 1}})

    assert scores == {"queries": 2, "ndcg@10": 0.5, "recall@10": 0.5, "mrr@10": 0.5}


def test_nothing_relevant_is_no_evaluation() -> None:
    with pytest.raises(InvalidRequest, match="relevance above 0"):
        evaluate({}, {"q1": {"a": 0}})


def test_a_document_stands_at_the_place_of_its_best_chunk() -> None:
    assert scored(["b", "b", "a", "b", "a"], {"a": 1}) == scored(["b", "a"], {"a": 1})


def test_a_folder_is_read_with_its_judged_questions_only(folder: Path) -> None:
    corpus, questions, judgments = read_folder(folder)

    assert [(text.id, text.title) for text in corpus] == [("d1", "One"), ("d2", "")]
    assert [text.id for text in questions] == ["q1"]
    assert judgments == {"q1": {"d1": 1, "d2": 0}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "corpus.jsonl",
            '{"id": "d1", "text": "x"}\nnot json\n',
            "corpus.jsonl, line 2 must be JSON",
        ),
        ("corpus.jsonl", '{"id": "d1"}\n', 'line 1 must be JSON with "id" and "text"'),
        ("queries.jsonl", "[1, 2]\n", 'line 1 must be JSON with "id" and "text"'),
        (
            "qrels.tsv",
            "query\tdoc\trelevance\nq1 d1 1\n",
            "line 2 needs question, document and a number",
        ),
        (
            "qrels.tsv",
            "query\tdoc\trelevance\nq1\td9\t1\n",
            "document 'd9', which is not in the set",
        ),
        (
            "qrels.tsv",
            "query\tdoc\trelevance\nq9\td1\t1\n",
            "question 'q9', which is not in the set",
        ),
    ],
)
def test_a_broken_file_is_named_with_its_line(
    folder: Path, name: str, content: str, message: str
) -> None:
    (folder / name).write_text(content, encoding="utf-8")

    with pytest.raises(InvalidRequest, match=message):
        read_folder(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "qrels.tsv").unlink()

    with pytest.raises(InvalidRequest, match=r"qrels\.tsv' cannot be read"):
        read_folder(folder)


def test_a_file_in_another_encoding_is_named(folder: Path) -> None:
    (folder / "corpus.jsonl").write_bytes(b'{"id": "d1", "text": "\xff"}\n')

    with pytest.raises(InvalidRequest, match=r"corpus\.jsonl' cannot be read"):
        read_folder(folder)

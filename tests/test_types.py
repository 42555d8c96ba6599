"""Records are built by keyword: by position, two neighbours of one type are soon confused."""

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from ragqueue import types

ROOT = Path(__file__).parents[1]
FILES = sorted(ROOT.glob("src/**/*.py"))
RECORDS = [
    kind
    for kind in vars(types).values()
    if inspect.isclass(kind) and issubclass(kind, types.Record) and kind is not types.Record
]


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_what_travels_between_rooms_is_built_by_keyword_alone(kind: type[types.Record]) -> None:
    parameters = inspect.signature(kind).parameters.values()

    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    with pytest.raises(TypeError, match="Extra positional arguments"):
        kind("a")


def test_no_tuple_whose_neighbours_share_a_type_is_built_by_position() -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
    confusable = {name for tree in trees.values() for name in confusable_tuples(tree)}

    found = [
        f"{path.relative_to(ROOT)}:{call.lineno} {name}"
        for path, tree in trees.items()
        for name, call in calls_by_position(tree)
        if name in confusable
    ]

    assert len(confusable) > 5
    assert found == []


def confusable_tuples(tree: ast.Module) -> Iterator[str]:
    """Yield the named tuples in which two fields that follow each other have one type."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        if not any(isinstance(base, ast.Name) and base.id == "NamedTuple" for base in node.bases):
            continue
        fields = [
            ast.unparse(part.annotation) for part in node.body if isinstance(part, ast.AnnAssign)
        ]
        if any(first == second for first, second in pairwise(fields)):
            yield node.name


def calls_by_position(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Yield each call of a name with more than one value by position, or with a list of them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            is_list = any(isinstance(value, ast.Starred) for value in node.args)
            if is_list or len(node.args) > 1:
                yield node.func.id, node

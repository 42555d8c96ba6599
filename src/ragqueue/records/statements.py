"""Statements that one can read: plain SQL, one text for every database.

What differs between databases stands behind two functions that each of them has: `epoch()`, the
store's clock in seconds since 1970, and `json_each(text)`, the rows (key, value) of a list or map.
`{now}` and `{list:ids}` (the values of the list that is bound as `ids`, see `as_list`) call them.
"""

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import Connection, Float, TextClause, literal_column, text

FORMS = {
    "now": "epoch()",
    # There is a limit of bound variables, none of these.
    "list": "(select value from json_each(:{name}))",
}
NOW = literal_column(FORMS["now"], Float)  # the clock in what SQLAlchemy builds
_MARK = re.compile(r"\{(\w+)(?::(\w+))?\}")


def sql(template: str) -> TextClause:
    """Return a template as the statement that runs on the database."""
    return text(_MARK.sub(lambda mark: FORMS[mark[1]].format(name=mark[2]), template))


def positional(connection: Connection, statement: str) -> str:
    """Return a statement with `?` for its values as the driver of a connection takes it."""
    if connection.dialect.paramstyle == "qmark":
        return statement
    return statement.replace("?", "%s")


def as_list(values: Iterable[object]) -> str:
    """Return a list as `{list:...}` takes it."""
    return to_json(list(values))


def to_json(value: Any) -> str:
    """Return JSON in a quarter of the time of the standard library's."""
    return msgspec.json.encode(value).decode()


def from_json(column: str | None) -> Any:
    """Return what a column of JSON holds."""
    return None if column is None else msgspec.json.decode(column)

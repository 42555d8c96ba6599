"""Chunks belong to a reading: a document switches to one without a row of theirs being written."""

from pathlib import Path

from alembic import op

from ragqueue.records.schema import statements

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Rename a column of chunks, add one to documents, and a table."""
    for statement in statements(Path(__file__), op.get_bind().dialect.name):
        op.execute(statement)

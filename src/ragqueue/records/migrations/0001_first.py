"""The first schema."""

from pathlib import Path

from alembic import op

from ragqueue.records.schema import statements

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table and index."""
    for statement in statements(Path(__file__), op.get_bind().dialect.name):
        op.execute(statement)

"""Tallies of jobs, and an index for each look of the reconciler."""

from pathlib import Path

from alembic import op

from ragqueue.records.schema import statements

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add tallies and indexes."""
    for statement in statements(Path(__file__), op.get_bind().dialect.name):
        op.execute(statement)

"""What an erasure needs to find, retention on every log, and pages of jobs without gaps."""

from pathlib import Path

from alembic import op

from ragqueue.records.schema import statements

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add columns and indexes."""
    for statement in statements(Path(__file__), op.get_bind().dialect.name):
        op.execute(statement)

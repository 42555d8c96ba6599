"""The first schema."""

from pathlib import Path

from alembic import op

from ragqueue.records.schema import statements

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table and index."""
    for statement in statements(Path(__file__).with_suffix(".sql")):
        op.execute(statement)

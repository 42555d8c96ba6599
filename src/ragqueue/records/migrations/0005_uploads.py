"""The bytes of an upload stand in parts: one large row made every other write wait."""

from pathlib import Path

from alembic import op

from ragqueue.records.schema import statements

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Move the bytes into a table of their own."""
    for statement in statements(Path(__file__), op.get_bind().dialect.name):
        op.execute(statement)

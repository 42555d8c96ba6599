"""The first schema."""

from pathlib import Path

from alembic import op

from ragqueue.records.keywords import SQLITE_DDL

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make every table, and on SQLite the keyword index."""
    statements = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8").split(";\n")
    for statement in [*filter(str.strip, statements), *SQLITE_DDL]:
        op.execute(statement)

"""Who leads, and in which term."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dure.store.metadata import Int64

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward. There is no way back: a ledger is never unmade."""
    table = op.create_table(
        "leadership",
        sa.Column("id", Int64, autoincrement=False, nullable=False),
        sa.Column("term", Int64, nullable=False),
        sa.Column("beats", Int64, nullable=False),
        sa.Column("holder", sa.String(), nullable=True),
        sa.CheckConstraint("id = 1", name=op.f("ck_leadership_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leadership")),
        comment="one row: who leads, in which term, and how often it has written in it",
    )
    op.bulk_insert(table, [{"id": 1, "term": 0, "beats": 0, "holder": None}])

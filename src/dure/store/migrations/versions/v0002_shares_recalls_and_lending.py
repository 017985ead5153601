"""Shares, recalls and lending."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dure.store.lending_schema import create_lending_guards

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward. There is no way back: a ledger is never unmade."""
    op.create_table(
        "lending",
        sa.Column("attempt", sa.String(), nullable=False),
        sa.Column("lender", sa.String(), nullable=False),
        sa.Column("borrower", sa.String(), nullable=False),
        sa.Column("pool", sa.String(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("from_ms", sa.BigInteger(), nullable=False),
        sa.Column("to_ms", sa.BigInteger(), nullable=False),
        sa.Column("gpu_ms", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "gpus >= 1 AND gpu_ms >= 1 AND from_ms <= to_ms", name=op.f("ck_lending_lent")
        ),
        sa.CheckConstraint("lender <> borrower", name=op.f("ck_lending_lender")),
        sa.ForeignKeyConstraint(["attempt"], ["attempts.id"], name=op.f("fk_lending_attempt")),
        sa.PrimaryKeyConstraint("attempt", "lender", name=op.f("pk_lending")),
        comment="lender and borrower are shares; at_ms is when the attempt was closed",
    )
    op.create_index("ix_lending_at", "lending", ["at_ms"], unique=False)
    create_lending_guards(op.get_bind())
    for table, column in (
        ("attempts", sa.Column("share", sa.String(), nullable=True)),
        ("attempts", sa.Column("guarantor", sa.String(), nullable=True)),
        ("attempts", sa.Column("lenders", sa.JSON(), server_default="[]", nullable=False)),
        ("attempts", sa.Column("notice_ms", sa.BigInteger(), nullable=True)),
        ("attempts", sa.Column("saved_ms", sa.BigInteger(), nullable=True)),
        ("tasks", sa.Column("queued_ms", sa.BigInteger(), server_default="0", nullable=False)),
        ("tasks", sa.Column("recalls", sa.Integer(), server_default="0", nullable=False)),
    ):
        op.add_column(table, column)
    op.execute(
        "UPDATE tasks SET queued_ms = (SELECT accepted_ms FROM jobs WHERE jobs.id = tasks.job)"
    )

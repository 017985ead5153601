"""Shares, recalls, lending and start estimates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dure.store.lending_schema import create_lending_guards
from dure.store.metadata import Int64

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
        sa.Column("gpus", Int64, nullable=False),
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
    op.create_index(
        "ix_attempts_job_open",
        "attempts",
        ["job"],
        unique=False,
        sqlite_where=sa.text("closed_ms IS NULL"),
        postgresql_where=sa.text("closed_ms IS NULL"),
    )
    instants = ("at", "expected", "likely_from", "likely_until", "surely_from", "surely_until")
    op.create_table(
        "start_estimates",
        sa.Column("task", Int64, nullable=False),
        *(
            sa.Column(f"{name}_ms", sa.BigInteger(), nullable=False)
            for name in (*instants, "first_at", "first_foreseen")
        ),
        sa.ForeignKeyConstraint(["task"], ["tasks.id"], name=op.f("fk_start_estimates_task")),
        sa.PrimaryKeyConstraint("task", name=op.f("pk_start_estimates")),
        comment="when queued tasks will start: as foreseen last, and first, to hold the truth "
        "against",
    )
    op.create_table(
        "start_outcomes",
        sa.Column("seq", Int64, nullable=False),
        sa.Column("foreseen_wait_ms", sa.BigInteger(), nullable=False),
        sa.Column("wait_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "foreseen_wait_ms >= 0 AND wait_ms >= 0", name=op.f("ck_start_outcomes_waits")
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_start_outcomes")),
        sqlite_autoincrement=True,
        comment="how long tasks were foreseen to wait, and waited: the latest few hundred",
    )
    for table, column in (
        ("attempts", sa.Column("share", sa.String(), nullable=True)),
        ("attempts", sa.Column("guarantor", sa.String(), nullable=True)),
        ("attempts", sa.Column("lenders", sa.JSON(), server_default="[]", nullable=False)),
        ("attempts", sa.Column("notice_ms", sa.BigInteger(), nullable=True)),
        ("attempts", sa.Column("saved_ms", sa.BigInteger(), nullable=True)),
        ("tasks", sa.Column("queued_ms", sa.BigInteger(), server_default="0", nullable=False)),
        ("tasks", sa.Column("recalls", Int64, server_default="0", nullable=False)),
    ):
        op.add_column(table, column)
    op.execute(
        "UPDATE tasks SET queued_ms = (SELECT accepted_ms FROM jobs WHERE jobs.id = tasks.job)"
    )

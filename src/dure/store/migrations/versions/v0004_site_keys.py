"""The keys of sites, and what they sign."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward. There is no way back: a ledger is never unmade."""
    op.create_table(
        "site_keys",
        sa.Column("cluster", sa.String(), nullable=False),
        sa.Column("public_key", sa.String(), nullable=False),
        sa.Column("enrolled_ms", sa.BigInteger(), nullable=False),
        sa.Column("retired_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("cluster", "public_key", name=op.f("pk_site_keys")),
        comment="Ed25519 keys of clusters' agents, in base64; of each cluster one is not retired",
    )
    op.create_index(
        "ux_site_keys_enrolled",
        "site_keys",
        ["cluster"],
        unique=True,
        sqlite_where=sa.text("retired_ms IS NULL"),
        postgresql_where=sa.text("retired_ms IS NULL"),
    )
    op.add_column("attempts", sa.Column("attestation", sa.String(), nullable=True))

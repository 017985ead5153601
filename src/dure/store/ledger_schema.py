"""The ledger's tables. The database itself guards them (`ledger_guards`).

No code is trusted to keep the invariants; each is refused by a constraint or a trigger:

- an entry moves its account's balance, and no balance of an allocation goes below zero (I3);
- a journal's row comes after its entries and seals them: at least two, balanced in each unit (I4),
  next in sequence, naming the hash before it (I6); entries without a sealed journal cannot be
  committed (deferred foreign key; in SQLite `PRAGMA foreign_keys` must be on);
- an attempt is held for once, and its hold is closed once, by the whole amount;
- entries and journals are never updated or deleted, a balance changes by an entry only.

SQLite lets a value of any type into any column and turns an integer that overflows into a float;
the `typeof` checks refuse both. `INSERT OR REPLACE` deletes without firing delete triggers;
so what it would replace is refused when it is inserted. PostgreSQL keeps types and bounds itself.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    ForeignKey,
    Index,
    Table,
    Text,
    event,
    text,
)

from dure.store import guards
from dure.store.ledger_guards import GUARDS
from dure.store.metadata import Int64, metadata


def _integers(*columns: str) -> CheckConstraint:
    """SQLite keeps what it is given; only integers may stand in these columns."""
    rule = " AND ".join(f"typeof({column}) = 'integer'" for column in columns)
    return CheckConstraint(rule, name="integers").ddl_if(dialect="sqlite")


accounts: Final = Table(
    "accounts",
    metadata,
    Column("account", Text, primary_key=True),
    Column("unit", Text, primary_key=True),
    Column("balance", Int64, nullable=False),
    Column("last_seq", Int64, nullable=False),
    Column("last_line", Int64, nullable=False),
    CheckConstraint("account NOT LIKE 'allocation/%' OR balance >= 0", name="overdraft"),
    CheckConstraint("unit IN ('ucredit', 'gpu_ms')", name="unit"),
    _integers("balance", "last_seq", "last_line"),
    comment="credits minus debits, kept by entries_post; last_* is the entry that moved it last",
)

journals: Final = Table(
    "journals",
    metadata,
    Column("seq", Int64, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("at_ms", Int64, nullable=False),
    Column("allocation_id", Text, nullable=False),
    Column("attempt_id", Text),
    Column("reverses_seq", Int64, ForeignKey("journals.seq"), unique=True),
    Column("memo", Text, nullable=False),
    Column("prev_hash", Text, nullable=False),
    Column("hash", Text, nullable=False, unique=True),
    CheckConstraint("kind IN ('grant', 'hold', 'settle', 'void', 'reverse')", name="kind"),
    CheckConstraint(
        "kind NOT IN ('hold', 'settle', 'void') OR attempt_id IS NOT NULL", name="attempt"
    ),
    CheckConstraint("(kind = 'reverse') = (reverses_seq IS NOT NULL)", name="reverses"),
    CheckConstraint("length(hash) = 64 AND length(prev_hash) = 64", name="hash"),
    _integers("seq", "at_ms"),
)
Index("ix_journals_allocation_id_seq", journals.c.allocation_id, journals.c.seq)

_HOLDS: Final = text("kind = 'hold'")
_CLOSES: Final = text("kind IN ('settle', 'void')")
Index(
    "ux_journals_hold",
    journals.c.attempt_id,
    unique=True,
    sqlite_where=_HOLDS,
    postgresql_where=_HOLDS,
)
Index(
    "ux_journals_close",
    journals.c.attempt_id,
    unique=True,
    sqlite_where=_CLOSES,
    postgresql_where=_CLOSES,
)

entries: Final = Table(
    "entries",
    metadata,
    Column(
        "journal_seq",
        Int64,
        ForeignKey("journals.seq", deferrable=True, initially="DEFERRED"),
        primary_key=True,
    ),
    Column("line", Int64, primary_key=True),
    Column("account", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("debit", Int64, nullable=False),
    Column("credit", Int64, nullable=False),
    CheckConstraint("debit >= 0 AND credit >= 0 AND (debit = 0) <> (credit = 0)", name="sides"),
    CheckConstraint("line >= 1", name="line"),
    CheckConstraint("unit IN ('ucredit', 'gpu_ms')", name="unit"),
    _integers("journal_seq", "line", "debit", "credit"),
    sqlite_with_rowid=False,
)


def create_ledger_guards(connection: Connection) -> None:
    """Create the triggers; tables made by `metadata.create_all` have them already.

    Raises:
        NotImplementedError: on a database whose triggers are not written: no book without guards.
    """
    guards.create(connection, GUARDS)


@event.listens_for(metadata, "after_create")
def _guard(
    _target: object, connection: Connection, tables: Collection[Table], **_options: Any
) -> None:
    if journals in tables:
        create_ledger_guards(connection)

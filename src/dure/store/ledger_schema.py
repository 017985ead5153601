"""The ledger's tables, and the guards by which the database itself keeps the book straight.

No code is trusted to keep the invariants; each is refused by a constraint or a trigger:

- an entry moves its account's balance, and no balance of an allocation goes below zero (I3);
- a journal's row comes after its entries and seals them: at least two, balanced in each unit (I4),
  next in sequence, naming the hash before it (I6); entries without a sealed journal cannot be
  committed (deferred foreign key, so `PRAGMA foreign_keys` must be on);
- an attempt is held for once, and its hold is closed once, by the whole amount;
- entries and journals are never updated or deleted, a balance changes by an entry only.

SQLite lets a value of any type into any column and turns an integer that overflows into a float;
the `typeof` checks refuse both. `INSERT OR REPLACE` deletes without firing delete triggers;
so what it would replace is refused when it is inserted.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    event,
    text,
)

from dure.store.metadata import metadata

_Int64: Final = BigInteger().with_variant(Integer, "sqlite")


def _integers(*columns: str) -> CheckConstraint:
    """SQLite keeps what it is given; only integers may stand in these columns."""
    rule = " AND ".join(f"typeof({column}) = 'integer'" for column in columns)
    return CheckConstraint(rule, name="integers").ddl_if(dialect="sqlite")


accounts: Final = Table(
    "accounts",
    metadata,
    Column("account", Text, primary_key=True),
    Column("unit", Text, primary_key=True),
    Column("balance", _Int64, nullable=False),
    Column("last_seq", _Int64, nullable=False),
    Column("last_line", _Int64, nullable=False),
    CheckConstraint("account NOT LIKE 'allocation/%' OR balance >= 0", name="overdraft"),
    CheckConstraint("unit IN ('ucredit', 'gpu_ms')", name="unit"),
    _integers("balance", "last_seq", "last_line"),
    comment="credits minus debits, kept by entries_post; last_* is the entry that moved it last",
)

journals: Final = Table(
    "journals",
    metadata,
    Column("seq", _Int64, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("at_ms", _Int64, nullable=False),
    Column("allocation_id", Text, nullable=False),
    Column("attempt_id", Text),
    Column("reverses_seq", _Int64, ForeignKey("journals.seq"), unique=True),
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
        _Int64,
        ForeignKey("journals.seq", deferrable=True, initially="DEFERRED"),
        primary_key=True,
    ),
    Column("line", _Int64, primary_key=True),
    Column("account", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("debit", _Int64, nullable=False),
    Column("credit", _Int64, nullable=False),
    CheckConstraint("debit >= 0 AND credit >= 0 AND (debit = 0) <> (credit = 0)", name="sides"),
    CheckConstraint("line >= 1", name="line"),
    CheckConstraint("unit IN ('ucredit', 'gpu_ms')", name="unit"),
    _integers("journal_seq", "line", "debit", "credit"),
    sqlite_with_rowid=False,
)

GUARDS: Final = (
    """
    CREATE TRIGGER IF NOT EXISTS entries_open BEFORE INSERT ON entries BEGIN
        SELECT RAISE(ABORT, 'ledger: entries belong to the next journal only')
        WHERE NEW.journal_seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM journals);
        SELECT RAISE(ABORT, 'ledger: this line is written already')
        WHERE EXISTS (SELECT 1 FROM entries
                      WHERE journal_seq = NEW.journal_seq AND line = NEW.line);
    END
    """,
    """
    CREATE TRIGGER IF NOT EXISTS entries_post AFTER INSERT ON entries BEGIN
        INSERT INTO accounts (account, unit, balance, last_seq, last_line)
        SELECT NEW.account, NEW.unit, 0, 0, 0
        WHERE NOT EXISTS (SELECT 1 FROM accounts
                          WHERE account = NEW.account AND unit = NEW.unit);
        UPDATE accounts SET balance = balance + NEW.credit - NEW.debit,
                            last_seq = NEW.journal_seq, last_line = NEW.line
        WHERE account = NEW.account AND unit = NEW.unit;
    END
    """,
    """
    CREATE TRIGGER IF NOT EXISTS accounts_start_empty BEFORE INSERT ON accounts BEGIN
        SELECT RAISE(ABORT, 'ledger: an account starts at zero, once')
        WHERE NEW.balance IS NOT 0 OR NEW.last_seq IS NOT 0 OR NEW.last_line IS NOT 0
           OR EXISTS (SELECT 1 FROM accounts WHERE account = NEW.account AND unit = NEW.unit);
    END
    """,
    """
    CREATE TRIGGER IF NOT EXISTS accounts_follow_entries BEFORE UPDATE ON accounts BEGIN
        SELECT RAISE(ABORT, 'ledger: a balance changes by an entry only')
        WHERE NEW.account IS NOT OLD.account OR NEW.unit IS NOT OLD.unit
           OR (NEW.last_seq, NEW.last_line) <= (OLD.last_seq, OLD.last_line)
           OR NOT EXISTS (
                SELECT 1 FROM entries
                WHERE journal_seq = NEW.last_seq AND line = NEW.last_line
                  AND account = NEW.account AND unit = NEW.unit
                  AND OLD.balance + credit - debit = NEW.balance);
    END
    """,
    """
    CREATE TRIGGER IF NOT EXISTS journals_chain BEFORE INSERT ON journals BEGIN
        SELECT RAISE(ABORT, 'ledger: a journal follows the last one')
        WHERE NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM journals)
           OR NEW.prev_hash IS NOT coalesce(
                (SELECT hash FROM journals ORDER BY seq DESC LIMIT 1), lower(hex(zeroblob(32))));
        SELECT RAISE(ABORT, 'ledger: this is posted already')
        WHERE EXISTS (SELECT 1 FROM journals WHERE id = NEW.id OR hash = NEW.hash)
           OR EXISTS (SELECT 1 FROM journals WHERE reverses_seq = NEW.reverses_seq);
    END
    """,
    """
    CREATE TRIGGER IF NOT EXISTS journals_balance BEFORE INSERT ON journals BEGIN
        SELECT RAISE(ABORT, 'ledger: a journal has lines 1, 2, ... and at least two')
        WHERE (SELECT count(*) < 2 OR count(*) <> max(line)
               FROM entries WHERE journal_seq = NEW.seq);
        SELECT RAISE(ABORT, 'ledger: debits and credits differ')
        WHERE EXISTS (SELECT 1 FROM entries WHERE journal_seq = NEW.seq
                      GROUP BY unit HAVING sum(debit) <> sum(credit));
    END
    """,
    """
    CREATE TRIGGER IF NOT EXISTS journals_pair BEFORE INSERT ON journals BEGIN
        SELECT RAISE(ABORT, 'ledger: an attempt is held for once')
        WHERE NEW.kind = 'hold' AND EXISTS (
            SELECT 1 FROM journals WHERE kind = 'hold' AND attempt_id = NEW.attempt_id);
        SELECT RAISE(ABORT, 'ledger: a hold is closed once')
        WHERE NEW.kind IN ('settle', 'void') AND EXISTS (
            SELECT 1 FROM journals
            WHERE kind IN ('settle', 'void') AND attempt_id = NEW.attempt_id);
        SELECT RAISE(ABORT, 'ledger: a hold sets aside, a close frees it, nothing else touches it')
        WHERE (NEW.kind IN ('hold', 'settle', 'void')) <> (
            SELECT count(*) FROM entries
            WHERE journal_seq = NEW.seq AND account LIKE 'allocation/%/held');
        SELECT RAISE(ABORT, 'ledger: a hold sets aside for its own allocation')
        WHERE NEW.kind = 'hold' AND NOT EXISTS (
            SELECT 1 FROM entries WHERE journal_seq = NEW.seq AND credit > 0
               AND account = 'allocation/' || NEW.allocation_id || '/held');
        SELECT RAISE(ABORT, 'ledger: a close frees the whole hold of its attempt')
        WHERE NEW.kind IN ('settle', 'void') AND NOT EXISTS (
            SELECT 1 FROM journals AS hold
            JOIN entries AS kept ON kept.journal_seq = hold.seq
             AND kept.account = 'allocation/' || NEW.allocation_id || '/held'
            JOIN entries AS freed ON freed.journal_seq = NEW.seq
             AND freed.account = kept.account AND freed.unit = kept.unit
             AND freed.debit = kept.credit
            WHERE hold.kind = 'hold' AND hold.attempt_id = NEW.attempt_id);
    END
    """,
    *(
        f"""
    CREATE TRIGGER IF NOT EXISTS {table}_no_{verb.lower()} BEFORE {verb} ON {table} BEGIN
        SELECT RAISE(ABORT, 'ledger: history is only added to');
    END
    """
        for table, verb in (
            ("entries", "UPDATE"),
            ("entries", "DELETE"),
            ("journals", "UPDATE"),
            ("journals", "DELETE"),
            ("accounts", "DELETE"),
        )
    ),
)
"""The triggers, one statement each; `CREATE ... IF NOT EXISTS`, so that creating them repeats."""


def create_ledger_guards(connection: Connection) -> None:
    """Create the triggers; tables made by `metadata.create_all` have them already.

    Raises:
        NotImplementedError: on a database whose triggers are not written: no book without guards.
    """
    if connection.dialect.name != "sqlite":
        raise NotImplementedError(
            f"the ledger's guards are not written for {connection.dialect.name}"
        )
    for guard in GUARDS:
        connection.exec_driver_sql(guard)


@event.listens_for(metadata, "after_create")
def _guard(
    _target: object, connection: Connection, tables: Collection[Table], **_options: Any
) -> None:
    if journals in tables:
        create_ledger_guards(connection)

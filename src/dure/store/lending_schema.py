"""The table of what was lent, and the guards that keep it: rows are added, and never changed.

A row is written in the transaction that closes its attempt, so that ledger and lending never tell
two stories. It stands apart from the ledger: a loan moves no credit of the borrower's. What owners
settle with each other is summed from here.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    event,
)

from dure.store.metadata import metadata

lending: Final = Table(
    "lending",
    metadata,
    Column("attempt", ForeignKey("attempts.id"), primary_key=True),
    Column("lender", String, primary_key=True),
    Column("borrower", String, nullable=False),
    Column("pool", String, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("from_ms", BigInteger, nullable=False),
    Column("to_ms", BigInteger, nullable=False),
    Column("gpu_ms", BigInteger, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    CheckConstraint("lender <> borrower", name="lender"),
    CheckConstraint("gpus >= 1 AND gpu_ms >= 1 AND from_ms <= to_ms", name="lent"),
    comment="lender and borrower are shares; at_ms is when the attempt was closed",
)
Index("ix_lending_at", lending.c.at_ms)

LENDING_GUARDS: Final = (
    # INSERT OR REPLACE deletes without firing delete triggers
    """
    CREATE TRIGGER IF NOT EXISTS lending_no_replace BEFORE INSERT ON lending BEGIN
        SELECT RAISE(ABORT, 'lending: the record is only added to')
        WHERE EXISTS (SELECT 1 FROM lending
                      WHERE attempt = NEW.attempt AND lender = NEW.lender);
    END
    """,
    *(
        f"""
    CREATE TRIGGER IF NOT EXISTS lending_no_{verb.lower()} BEFORE {verb} ON lending BEGIN
        SELECT RAISE(ABORT, 'lending: the record is only added to');
    END
    """
        for verb in ("UPDATE", "DELETE")
    ),
)
"""The triggers, one statement each; `CREATE ... IF NOT EXISTS`, so that creating them repeats."""


def create_lending_guards(connection: Connection) -> None:
    """Create the triggers; a table made by `metadata.create_all` has them already."""
    for guard in LENDING_GUARDS:
        connection.exec_driver_sql(guard)


@event.listens_for(lending, "after_create")
def _guard(_target: Table, connection: Connection, **_options: Any) -> None:
    create_lending_guards(connection)

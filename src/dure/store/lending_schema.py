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
    String,
    Table,
    event,
)

from dure.store import guards
from dure.store.guards import Guard, only_added
from dure.store.metadata import Int64, metadata

lending: Final = Table(
    "lending",
    metadata,
    Column("attempt", ForeignKey("attempts.id"), primary_key=True),
    Column("lender", String, primary_key=True),
    Column("borrower", String, nullable=False),
    Column("pool", String, nullable=False),
    Column("gpus", Int64, nullable=False),
    Column("from_ms", BigInteger, nullable=False),
    Column("to_ms", BigInteger, nullable=False),
    Column("gpu_ms", BigInteger, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    CheckConstraint("lender <> borrower", name="lender"),
    CheckConstraint("gpus >= 1 AND gpu_ms >= 1 AND from_ms <= to_ms", name="lent"),
    comment="lender and borrower are shares; at_ms is when the attempt was closed",
)
Index("ix_lending_at", lending.c.at_ms)

_IS_THERE: Final = """
        EXISTS (SELECT 1 FROM lending WHERE attempt = NEW.attempt AND lender = NEW.lender)"""

LENDING_GUARDS: Final = (
    # SQLite's INSERT OR REPLACE deletes without firing delete triggers
    Guard(
        "lending_no_replace",
        "lending",
        "BEFORE INSERT",
        {"lending: the record is only added to": _IS_THERE},
    ),
    *only_added("lending", "lending: the record is only added to"),
)


def create_lending_guards(connection: Connection) -> None:
    """Create the triggers; a table made by `metadata.create_all` has them already."""
    guards.create(connection, LENDING_GUARDS)


@event.listens_for(lending, "after_create")
def _guard(_target: Table, connection: Connection, **_options: Any) -> None:
    create_lending_guards(connection)

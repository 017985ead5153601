"""A book to try: the ledger's tables alone, and what tests post in it."""

from __future__ import annotations

from sqlalchemy import Connection

from dure import ledger
from dure.allocations import BudgetUnit
from dure.journal import Journal
from dure.store import ledger as book
from dure.store import ledger_schema
from dure.store.database import Database
from dure.store.metadata import metadata

TABLES = [ledger_schema.accounts, ledger_schema.journals, ledger_schema.entries]
GPU_MS = BudgetUnit.GPU_MS


def open_book(database: Database) -> None:
    """The ledger's tables in an empty database."""
    with database.write() as connection:
        metadata.create_all(connection, tables=TABLES)


def grant(
    connection: Connection, amount: int = 100, allocation_id: str = "a", key: str = "award"
) -> Journal:
    return book.post(connection, ledger.grant(allocation_id, GPU_MS, amount, key), 1_000)


def hold(connection: Connection, attempt_id: str, gpu_ms: int, allocation_id: str = "a") -> Journal:
    return book.post(connection, ledger.hold(allocation_id, GPU_MS, attempt_id, gpu_ms), 2_000)

"""SQLite: one file beside the process.

Whoever writes takes the write lock when it begins (BEGIN IMMEDIATE); whoever reads has a snapshot
(WAL) and `query_only`.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event

from dure.store.limits import Limits

_WRITE: Final = "dure_write"


def options(writes: bool) -> dict[str, Any]:  # noqa: FBT001 (its one argument)
    """A connection's options for a transaction."""
    return {_WRITE: writes}


def engine(path: Path, limits: Limits) -> Engine:
    """The engine of one file."""
    made = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": limits.wait_s, "check_same_thread": False},
        hide_parameters=True,  # a logged error must not tell what was in the row
        pool_size=limits.connections,
        max_overflow=-1,  # a connection is a file handle: nobody need wait for one
    )
    event.listen(made, "connect", _settle)
    event.listen(made, "begin", _begin)
    return made


def _settle(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions of its own
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # a dropped secret is overwritten


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql(f"PRAGMA query_only = {'OFF' if writes else 'ON'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

"""The embedded database: one SQLite file, many readers, one writer at a time.

`write()` takes the write lock when it begins (BEGIN IMMEDIATE), so that what a transaction has read
cannot change under it; `read()` sees one consistent snapshot (WAL). A commit is on disk before
it returns: an accepted job survives a power cut.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event

BUSY_TIMEOUT_S: Final = 30
CONNECTIONS: Final = 40
"""As many are kept open as the API has threads; more are opened when they are needed."""
_WRITE: Final = "dure_write"


class Database:
    """Where transactions begin."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = _engine(path)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that may write: committed at the end, rolled back on any exception."""
        connected = self.engine.connect().execution_options(**{_WRITE: True})
        with connected as connection, connection.begin():
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One snapshot; what would be written in it is refused."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Give back every connection."""
        self.engine.dispose()


def _engine(path: Path) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        hide_parameters=True,  # a logged error must not tell what was in the row
        pool_size=CONNECTIONS,
        max_overflow=-1,
    )

    @event.listens_for(engine, "connect")
    def _settings(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")  # a dropped secret is overwritten

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITE, False)
        connection.exec_driver_sql(f"PRAGMA query_only = {'OFF' if writes else 'ON'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine

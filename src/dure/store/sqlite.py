"""SQLite: one file beside the process.

Whoever writes takes the write lock when it begins (BEGIN IMMEDIATE); whoever reads has a snapshot
(WAL) and `query_only`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError

from dure.store.limits import Limits

_WRITE: Final = "dure_write"


class Turns:
    """Writers of one process, one after another.

    Each would wait for the file's write lock by asking again and again, at last every 100 ms (its
    busy handler), so that with many of them it lies free most of the time. The lock of the file
    stays what counts: other processes may hold it.
    """

    def __init__(self, wait_s: float) -> None:
        self._lock = Lock()
        self._wait_s = wait_s

    @contextmanager
    def one(self) -> Iterator[None]:
        """Waits for its turn. Raises OperationalError where that takes too long, as SQLite does."""
        if not self._lock.acquire(timeout=self._wait_s):
            locked = sqlite3.OperationalError("database is locked by this process's other writers")
            raise OperationalError("BEGIN IMMEDIATE", {}, locked)
        try:
            yield
        finally:
            self._lock.release()


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
    if connection.info.get(_WRITE) is not writes:  # as it was left by its last transaction
        connection.exec_driver_sql(f"PRAGMA query_only = {'OFF' if writes else 'ON'}")
        connection.info[_WRITE] = writes
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

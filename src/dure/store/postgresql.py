"""PostgreSQL: a server that several processes share.

Whoever writes first takes one advisory lock, released by the server when the transaction ends. So
writers come one at a time, as in SQLite, and each statement (READ COMMITTED) sees all that was
committed before the lock was had. The book is one chain and has to be written one journal after
another anyway. Whoever reads has one snapshot (REPEATABLE READ, READ ONLY), which, with one writer
at a time, is the state after some transaction: serializable, without retries.

Source: PostgreSQL 15 manual, 13.2 (isolation), 13.3.5 (advisory locks), 20.11.1 (timeouts).
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from dure.errors import RefusedError
from dure.store.limits import Limits
from dure.units import MS_PER_S

NAME: Final = "postgresql"
VERSION_MIN: Final = 14
"""The first that has CREATE OR REPLACE TRIGGER."""
LOCKS: Final = 0x44757265
"""The advisory locks of Dure: the first of each one's two keys, `Dure` in ASCII."""
WRITERS: Final = 0
"""The second key of the writers' lock; terms of leadership count from 1 (`store.leadership`)."""

_WRITE: Final = "dure_write"
_SERVER: Final = {
    "TimeZone": "UTC",
    "client_encoding": "UTF8",
    # A machine that is gone is noticed, and its locks are free, after 10 + 3 * 5 s.
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
}


def url(text: str) -> URL:
    """Where a database is, from `postgresql://USER@HOST/NAME`.

    Raises:
        RefusedError: it is no such address.
    """
    try:
        found = make_url(text)
    except (ArgumentError, ValueError):
        found = None
    if found is None or found.drivername not in {"postgresql", "postgres"} or not found.database:
        raise RefusedError(
            "bad-database",
            "The database's address is not of the form postgresql://USER@HOST:PORT/NAME.",
        )
    return found.set(drivername=f"{NAME}+psycopg")


def options(writes: bool) -> dict[str, Any]:  # noqa: FBT001 (its one argument)
    """A connection's options for a transaction."""
    return {
        _WRITE: writes,
        "isolation_level": "READ COMMITTED" if writes else "REPEATABLE READ",
        "postgresql_readonly": not writes,
    }


def engine(where: URL, limits: Limits) -> Engine:
    """The engine of one database, with at most `limits.connections` connections."""
    settings = {
        **_SERVER,
        "lock_timeout": round(limits.wait_s * MS_PER_S),
        "application_name": "dure",
    }
    made = create_engine(
        where,
        connect_args={
            "connect_timeout": max(2, round(limits.wait_s)),
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
        },
        hide_parameters=True,  # a logged error must not tell what was in the row
        pool_size=limits.connections,
        max_overflow=0,
        pool_timeout=limits.wait_s,
        pool_pre_ping=True,  # the server may have been restarted meanwhile
    )
    idle_ms = round(limits.idle_s * MS_PER_S)

    @event.listens_for(made, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get(_WRITE, False):
            connection.exec_driver_sql(
                f"SELECT set_config('idle_in_transaction_session_timeout', '{idle_ms}', true),"
                f" pg_advisory_xact_lock({LOCKS}, {WRITERS})"
            )

    return made


def take_time(connection: Connection) -> None:
    """Let the transaction be silent for as long as it likes: to migrate takes what it takes."""
    connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")


def require_fit(connection: Connection) -> None:
    """Refuse a server that is too old, and a database that orders or keeps text otherwise.

    Names are sorted by their bytes here and in SQLite; another collation would sort them by the
    rules of a language, and differently after an upgrade of the server's own libraries.

    Raises:
        RefusedError: `old-postgresql` or `wrong-collation`.
    """
    version, encoding, collation = connection.exec_driver_sql(
        "SELECT current_setting('server_version_num')::int,"
        " pg_encoding_to_char(encoding), datcollate"
        " FROM pg_database WHERE datname = current_database()"
    ).one()
    if version < VERSION_MIN * 10_000:
        raise RefusedError(
            "old-postgresql",
            f"The server is PostgreSQL {version // 10_000}; Dure needs {VERSION_MIN} or newer.",
        )
    if encoding != "UTF8" or collation.upper().replace("-", "") not in {"C", "POSIX", "C.UTF8"}:
        raise RefusedError(
            "wrong-collation",
            f"The database is {encoding} with collation {collation}; make one with "
            "CREATE DATABASE dure TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8'.",
        )

"""INSERT ... ON CONFLICT, which both databases have and SQLAlchemy spells for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

_INSERTS: Final[dict[str, Callable[[Table], sqlite.Insert]]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,  # type: ignore[dict-item]  # its methods have the same names
}


def upsert(connection: Connection, table: Table) -> sqlite.Insert:
    """An insert that can say what to do where the row is there already."""
    return _INSERTS[connection.dialect.name](table)

"""The one collection of tables, with names for every constraint, and how integers are kept and
summed.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, ColumnElement, Integer, MetaData, cast, func

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Int64: Final = BigInteger().with_variant(Integer, "sqlite")
"""64 bits on every database. SQLite numbers rows by itself only in a column named INTEGER."""


def total(amounts: ColumnElement[int], *where: ColumnElement[bool]) -> ColumnElement[int]:
    """Their sum, of those rows; NULL where there are none. PostgreSQL sums into decimals."""
    return cast(func.sum(amounts).filter(*where) if where else func.sum(amounts), BigInteger)

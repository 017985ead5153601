"""Statements on what was lent: a row for each lender of an attempt that ran, written once."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, false, func, insert, or_, select, true

from dure.store.attempts import Attempt
from dure.store.lending_schema import lending
from dure.store.metadata import total
from dure.store.schema import attempts
from dure.views import LendingLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What is believed of an attempt that ran: from when until when, and its GPU-ms."""

    from_ms: int
    to_ms: int
    gpu_ms: int


def write(connection: Connection, attempt: Attempt, ran: Ran, now_ms: int) -> None:
    """Record what an attempt's lenders lent it; nothing where it ran on nobody else's guarantee."""
    rows = [
        {
            "attempt": attempt.id,
            "lender": lent.lender,
            "borrower": attempt.share,
            "pool": attempt.pool,
            "gpus": lent.gpus,
            "from_ms": ran.from_ms,
            "to_ms": max(ran.from_ms, ran.to_ms),
            "gpu_ms": gpu_ms,
            "at_ms": now_ms,
        }
        for lent in attempt.lenders
        if (gpu_ms := lent.part_of(ran.gpu_ms, attempt.gpus))
    ]
    if rows:
        connection.execute(insert(lending), rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class LendingFilter:
    """Which loans: for each of `sides`, one of its shares, or a share below, lent or borrowed. The
    window [from_ms, until_ms) is of the attempt's closing.
    """

    sides: tuple[tuple[str, ...], ...] = ()
    from_ms: int | None = None
    until_ms: int | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """As SQL."""
        wanted: list[ColumnElement[bool]] = [true()]
        for shares in self.sides:
            roles = (
                (role == share) | role.startswith(f"{share}.", autoescape=True)
                for share in shares
                for role in (lending.c.lender, lending.c.borrower)
            )
            wanted.append(or_(false(), *roles))
        if self.from_ms is not None:
            wanted.append(lending.c.at_ms >= self.from_ms)
        if self.until_ms is not None:
            wanted.append(lending.c.at_ms < self.until_ms)
        return wanted


def lines(connection: Connection, wanted: LendingFilter) -> tuple[LendingLine, ...]:
    """Sums by lender, borrower and pool."""
    keys = (lending.c.lender, lending.c.borrower, lending.c.pool, attempts.c.gpu_model)
    rows = connection.execute(
        select(
            *keys,
            func.count().label("attempts"),
            total(lending.c.gpu_ms).label("gpu_ms"),
        )
        .join_from(lending, attempts, attempts.c.id == lending.c.attempt)
        .where(*wanted.conditions())
        .group_by(*keys)
        .order_by(*keys)
    )
    return tuple(
        LendingLine(
            lender=row.lender,
            borrower=row.borrower,
            pool=row.pool,
            gpu_model=row.gpu_model,
            attempts=row.attempts,
            gpu_ms=row.gpu_ms,
        )
        for row in rows
    )

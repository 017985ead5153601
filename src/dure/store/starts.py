"""Statements on start estimates: what is foreseen of queued tasks, and what became of it.

What is foreseen is overwritten at every look ahead. The first of a task's estimates is held against
its true start: the last, just before, would always be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Row, delete, insert, select

from dure.scheduling.foresight import WINDOW, StartEstimate
from dure.store.schema import start_estimates, start_outcomes
from dure.views import Start

COLUMNS: Final = tuple(
    start_estimates.c[name].label(f"start_{name}") for name in Start.__dataclass_fields__
)
"""What `of_row` reads."""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A start as the scheduler run forward has it, in ms, and the ranges that were made of it."""

    starts_ms: int
    said: StartEstimate


def of_row(row: Row[tuple[object, ...]]) -> Start | None:
    """The estimate in a row with `COLUMNS`; None where it has none."""
    if row.start_at_ms is None:
        return None
    found = row._mapping  # noqa: SLF001 (SQLAlchemy's own name for a row by its labels)
    return Start(**{name: found[f"start_{name}"] for name in Start.__dataclass_fields__})


def keep(connection: Connection, foreseen: Mapping[int, Foreseen], now_ms: int) -> None:
    """Put these estimates, by task id, in the place of all that were kept."""
    first = {
        row.task: (row.first_at_ms, row.first_foreseen_ms)
        for row in connection.execute(select(start_estimates))
    }
    connection.execute(delete(start_estimates))
    rows = []
    for task, one in foreseen.items():
        at_ms, starts_ms = first.get(task, (now_ms, one.starts_ms))
        rows.append(
            {
                "task": task,
                "at_ms": now_ms,
                **one.said._asdict(),
                "first_at_ms": at_ms,
                "first_foreseen_ms": starts_ms,
            }
        )
    if rows:
        connection.execute(insert(start_estimates), rows)


def came_true(connection: Connection, task: int, now_ms: int) -> None:
    """A task starts: keep how long it was foreseen to wait, and did, if it was foreseen."""
    row = connection.execute(
        delete(start_estimates)
        .where(start_estimates.c.task == task)
        .returning(start_estimates.c.first_at_ms, start_estimates.c.first_foreseen_ms)
    ).one_or_none()
    if row is None:
        return
    seq = connection.execute(
        insert(start_outcomes)
        .values(
            foreseen_wait_ms=max(0, row.first_foreseen_ms - row.first_at_ms),
            wait_ms=max(0, now_ms - row.first_at_ms),  # the clock may have been set back
        )
        .returning(start_outcomes.c.seq)
    ).scalar_one()
    connection.execute(delete(start_outcomes).where(start_outcomes.c.seq <= seq - WINDOW))


def outcomes(connection: Connection, after_seq: int) -> tuple[tuple[tuple[int, int], ...], int]:
    """The pairs (foreseen wait, true wait) after `after_seq`, oldest first; and the last one's
    number.
    """
    rows = connection.execute(
        select(start_outcomes)
        .where(start_outcomes.c.seq > after_seq)
        .order_by(start_outcomes.c.seq)
    ).all()
    pairs = tuple((row.foreseen_wait_ms, row.wait_ms) for row in rows)
    return pairs, rows[-1].seq if rows else after_seq

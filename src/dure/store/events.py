"""Statements on events: what happened, in order, each with its reason. Append only."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from dure.errors import Reason
from dure.life import State
from dure.store.schema import events, tasks
from dure.views import EventView


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """An event about to be written. `task` is a row id; None is about the whole job."""

    project: str
    job: int
    reason: Reason
    task: int | None = None
    attempt: str | None = None
    state: State | None = None


def write(connection: Connection, happening: Happening, now_ms: int) -> None:
    """Append an event."""
    connection.execute(
        insert(events).values(
            at_ms=now_ms,
            project=happening.project,
            job=happening.job,
            task=happening.task,
            attempt=happening.attempt,
            state=happening.state,
            code=happening.reason.code,
            sentence=happening.reason.sentence,
        )
    )


def has(connection: Connection, attempt: str, code: str) -> bool:
    """Whether an event of that code was written of an attempt."""
    query = select(events.c.seq).where(events.c.attempt == attempt, events.c.code == code)
    return connection.scalar(query.limit(1)) is not None


def of_job(
    connection: Connection, job: int, *, after: int = 0, limit: int = 1_000
) -> tuple[EventView, ...]:
    """A job's events after `after`, oldest first."""
    query = (
        select(events, tasks.c.array_index.label("task_index"))
        .join_from(events, tasks, tasks.c.id == events.c.task, isouter=True)
        .where(events.c.job == job, events.c.seq > after)
        .order_by(events.c.seq)
        .limit(limit)
    )
    return tuple(
        EventView(
            seq=row.seq,
            at_ms=row.at_ms,
            job=f"j-{row.job}",
            task_index=row.task_index,
            attempt=row.attempt,
            state=None if row.state is None else State(row.state),
            reason=Reason(row.code, row.sentence),
        )
        for row in connection.execute(query)
    )

"""Statements on lists of tasks, each with its job and its last attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Row, Select, and_, or_, select

from dure.errors import Reason
from dure.life import TERMINAL, EndCause, State
from dure.listing import RunLine, TaskLine
from dure.store.jobs import job_name, read_spec
from dure.store.schema import attempts, jobs, start_estimates, tasks

_OPEN: Final = [state for state in State if state not in TERMINAL]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """Which tasks to list; None asks for no such thing.

    `since_ms` leaves out what ended before; `before` is a task's number, the cursor.
    """

    of_projects: Sequence[str] | None
    submitter: str | None
    job: int | None
    open_only: bool
    since_ms: int | None
    before: int | None
    limit: int


def page(connection: Connection, query: TaskQuery) -> tuple[tuple[TaskLine, ...], int | None]:
    """Tasks by falling number, and the cursor of the next page, if there may be one."""
    rows = connection.execute(_narrowed(query)).all()
    return tuple(_line(row) for row in rows), rows[-1].task if len(rows) == query.limit else None


def _narrowed(query: TaskQuery) -> Select[tuple[object, ...]]:
    found = _TASK.order_by(tasks.c.id.desc()).limit(query.limit)
    if query.of_projects is not None:
        found = found.where(jobs.c.project.in_(query.of_projects))
    if query.submitter is not None:
        found = found.where(jobs.c.submitter == query.submitter)
    if query.job is not None:
        found = found.where(jobs.c.id == query.job)
    if query.open_only:
        found = found.where(tasks.c.state.in_(_OPEN), jobs.c.state.in_(_OPEN))
    if query.since_ms is not None:
        ended = tasks.c.ended_ms
        found = found.where(or_(ended.is_(None), ended >= query.since_ms))
    return found if query.before is None else found.where(tasks.c.id < query.before)


_TASK: Final = (
    select(
        jobs.c.id.label("job"),
        *(jobs.c[name] for name in ("project", "allocation", "submitter", "name", "spec")),
        jobs.c.tasks,
        jobs.c.accepted_ms,
        tasks.c.id.label("task"),
        *(tasks.c[name] for name in ("array_index", "priority", "state", "exit_code")),
        tasks.c.reason_code,
        tasks.c.reason,
        tasks.c.ended_ms,
        start_estimates.c.expected_ms,
        *(
            attempts.c[name].label(f"run_{name}")
            for name in (
                "number", "operator", "cluster", "pool", "gpu_model", "nodes", "started_ms",
                "ended_ms", "cause", "gpu_ms",
            )
        ),
    )
    .join_from(tasks, jobs, tasks.c.job == jobs.c.id)
    .outerjoin(
        attempts, and_(attempts.c.task == tasks.c.id, attempts.c.number == tasks.c.attempts)
    )
    .outerjoin(
        start_estimates,
        and_(start_estimates.c.task == tasks.c.id, tasks.c.state == State.QUEUED),
    )
)  # fmt: skip


def _line(row: Row[tuple[object, ...]]) -> TaskLine:
    spec = read_spec(row.job, row.spec)
    return TaskLine(
        job=job_name(row.job),
        index=row.array_index,
        tasks=row.tasks,
        max_running=spec.array.max_running if spec.array else None,
        name=row.name,
        project=row.project,
        allocation=row.allocation,
        submitter=row.submitter,
        tier=spec.tier,
        priority=row.priority,
        resources=spec.resources,
        walltime_s=spec.walltime_s,
        state=State(row.state),
        reason=Reason(row.reason_code, row.reason) if row.reason_code else None,
        exit_code=row.exit_code,
        accepted_ms=row.accepted_ms,
        ended_ms=row.ended_ms,
        expected_ms=row.expected_ms,
        run=_run(row),
    )


def _run(row: Row[tuple[object, ...]]) -> RunLine | None:
    if row.run_number is None:
        return None
    return RunLine(
        number=row.run_number,
        operator=row.run_operator,
        cluster=row.run_cluster,
        pool=row.run_pool,
        gpu_model=row.run_gpu_model,
        nodes=tuple(row.run_nodes),
        started_ms=row.run_started_ms,
        ended_ms=row.run_ended_ms,
        cause=None if row.run_cause is None else EndCause(row.run_cause),
        gpu_ms=row.run_gpu_ms,
    )

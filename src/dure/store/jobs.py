"""Statements on jobs and their tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import merge
from itertools import islice
from typing import Final, NamedTuple

from sqlalchemy import Connection, Row, Select, and_, bindparam, func, insert, select, update

from dure import codec
from dure.errors import Reason
from dure.jobs import DependencyKind, JobSpec
from dure.life import LIVE, PLATFORM_RETRIES, TERMINAL, State, job_state
from dure.store import starts
from dure.store.schema import (
    allocations,
    attempts,
    job_dependencies,
    jobs,
    start_estimates,
    tasks,
)
from dure.views import JobSummary, TaskWhy

TASKS_SHOWN_MAX: Final = 1_000
QUEUED_OF_JOB_MAX: Final = 256
QUEUED_OF_ALLOCATION_MAX: Final = 1_000
IDS_MAX: Final = 1_000
"""So many are named in one statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job about to be accepted. `depends_on` holds (kind, job id)."""

    spec: JobSpec
    allocation: str
    submitter: str
    depends_on: tuple[tuple[DependencyKind, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as it stands, with what of its job every step needs."""

    id: int
    job: int
    index: int
    project: str
    allocation: str
    state: State
    attempts: int
    retries_left: int
    platform_retries_left: int
    reason: Reason | None
    checkpoint: str | None
    submitter: str
    queued_ms: int
    """When it was queued first."""
    recalls: int
    """How often its GPUs were called back."""
    spec: JobSpec


def open_tasks(connection: Connection, project: str) -> int:
    """How many tasks the jobs of a project have that have not ended."""
    open_states = [state for state in State if state not in TERMINAL]
    query = select(func.coalesce(func.sum(jobs.c.tasks), 0)).where(
        jobs.c.project == project, jobs.c.state.in_(open_states)
    )
    return int(connection.execute(query).scalar_one())


def job_number(job: str) -> int | None:
    """The number in `j-12`; None for anything else."""
    number = job.removeprefix("j-")
    if job.startswith("j-") and number.isascii() and number.isdigit() and len(number) <= 18:
        return int(number)
    return None


def job_name(number: int) -> str:
    """A job's id as everybody sees it."""
    return f"j-{number}"


@lru_cache(maxsize=50_000)
def read_spec(_job: int, document: str) -> JobSpec:
    """A job's spec as it was kept. It never changes, so that it is decoded once."""
    return codec.read(JobSpec, document)


# ---- write ---------------------------------------------------------------------------------------


def add_job(connection: Connection, new: NewJob, now_ms: int) -> int:
    """Accept a job and its tasks; its number."""
    spec = new.spec
    state = State.WAITING if new.depends_on else State.QUEUED
    job = connection.execute(
        insert(jobs)
        .values(
            project=spec.project,
            allocation=new.allocation,
            submitter=new.submitter,
            name=spec.name,
            spec=codec.encode_text(spec),
            state=state,
            tasks=len(spec.indices),
            accepted_ms=now_ms,
        )
        .returning(jobs.c.id)
    ).scalar_one()
    connection.execute(
        insert(tasks),
        [
            {
                "job": job,
                "array_index": index,
                "priority": spec.priority,
                "state": state,
                "retries_left": spec.retries,
                "platform_retries_left": PLATFORM_RETRIES,
                "queued_ms": now_ms,
            }
            for index in spec.indices
        ],
    )
    for kind, on_job in new.depends_on:
        connection.execute(insert(job_dependencies).values(job=job, kind=kind, on_job=on_job))
    return int(job)


def move_task(connection: Connection, task: Task, to: State, **values: object) -> bool:
    """Compare and set: False where the task is no longer in the state that was read."""
    done = connection.execute(
        update(tasks)
        .where(tasks.c.id == task.id, tasks.c.state == task.state)
        .values(state=to, **values)
    )
    return done.rowcount == 1


def count_recall(connection: Connection, task: int) -> None:
    """Its GPUs were called back once more."""
    connection.execute(update(tasks).where(tasks.c.id == task).values(recalls=tasks.c.recalls + 1))


def set_reasons(connection: Connection, reasons: Mapping[int, Reason]) -> None:
    """Keep why tasks wait, by task."""
    if reasons:
        connection.execute(
            update(tasks)
            .where(tasks.c.id == bindparam("task"))
            .values(reason_code=bindparam("code"), reason=bindparam("sentence")),
            [
                {"task": task, "code": reason.code, "sentence": reason.sentence}
                for task, reason in reasons.items()
            ],
        )


def refresh_state(connection: Connection, job: int, now_ms: int) -> State:
    """Bring a job's state in line with its tasks'; the state."""
    state = job_state(counts(connection, job))
    ended_ms = now_ms if state in TERMINAL else None
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job, jobs.c.state != state)
        .values(state=state, ended_ms=ended_ms)
    )
    return state


# ---- read ----------------------------------------------------------------------------------------


def counts(connection: Connection, job: int) -> dict[State, int]:
    """How many of a job's tasks are in each state."""
    rows = connection.execute(
        select(tasks.c.state, func.count()).where(tasks.c.job == job).group_by(tasks.c.state)
    )
    return {State(state): count for state, count in sorted(rows)}


_TASK: Final = select(
    tasks, jobs.c.project, jobs.c.allocation, jobs.c.submitter, jobs.c.spec
).join_from(tasks, jobs)


def _task(row: Row[tuple[object, ...]]) -> Task:
    return Task(
        id=row.id,
        job=row.job,
        index=row.array_index,
        project=row.project,
        allocation=row.allocation,
        state=State(row.state),
        attempts=row.attempts,
        retries_left=row.retries_left,
        platform_retries_left=row.platform_retries_left,
        reason=_reason(row),
        checkpoint=row.checkpoint,
        submitter=row.submitter,
        queued_ms=row.queued_ms,
        recalls=row.recalls,
        spec=read_spec(row.job, row.spec),
    )


def _reason(row: Row[tuple[object, ...]]) -> Reason | None:
    return Reason(row.reason_code, row.reason) if row.reason_code else None


def task(connection: Connection, task_id: int) -> Task:
    """A task by its row id."""
    return _task(connection.execute(_TASK.where(tasks.c.id == task_id)).one())


def tasks_of(
    connection: Connection,
    job: int,
    states: Iterable[State] | None = None,
    limit: int | None = None,
) -> tuple[Task, ...]:
    """A job's tasks by index, all or those in some states."""
    query = _TASK.where(tasks.c.job == job).order_by(tasks.c.array_index).limit(limit)
    if states is not None:
        query = query.where(tasks.c.state.in_(list(states)))
    return tuple(_task(row) for row in connection.execute(query))


def task_by_index(connection: Connection, job: int, index: int) -> Task | None:
    """A job's task by its index, or None."""
    row = connection.execute(
        _TASK.where(tasks.c.job == job, tasks.c.array_index == index)
    ).one_or_none()
    return None if row is None else _task(row)


def exit_codes(connection: Connection, job: int) -> dict[int, int]:
    """The exit codes of a job's ended tasks, by task id."""
    rows = connection.execute(
        select(tasks.c.id, tasks.c.exit_code).where(
            tasks.c.job == job, tasks.c.exit_code.is_not(None)
        )
    )
    return {row.id: row.exit_code for row in rows}


class Brief(NamedTuple):
    """What may change of a task that waits for a place or has one, and who it is."""

    task: int
    job: int
    queued_ms: int
    recalls: int


_BRIEF: Final = (tasks.c.id, tasks.c.job, tasks.c.queued_ms, tasks.c.recalls)


def queue(connection: Connection, now_ms: int, depth: int) -> tuple[Brief, ...]:
    """The first `depth` tasks that want a place and may have one: by priority, then age.

    Of one job and of one allocation only so many stand in it: what cannot start for its own
    project's reasons must not keep others from being looked at.
    """
    query = (
        select(*_BRIEF, jobs.c.allocation)
        .join_from(tasks, jobs)
        .join(allocations, allocations.c.id == jobs.c.allocation)
        .where(
            tasks.c.state == State.QUEUED,
            tasks.c.not_before_ms <= now_ms,
            allocations.c.starts_ms <= now_ms,
            allocations.c.ends_ms > now_ms,
        )
        .order_by(tasks.c.priority.desc(), tasks.c.id)
    )
    found: list[Brief] = []
    in_job: Counter[int] = Counter()
    in_allocation: Counter[str] = Counter()
    for *brief, allocation in connection.execute(query):
        if len(found) == depth:
            break
        one = Brief(*brief)
        in_job[one.job] += 1
        if in_job[one.job] > QUEUED_OF_JOB_MAX:
            continue
        in_allocation[allocation] += 1
        if in_allocation[allocation] <= QUEUED_OF_ALLOCATION_MAX:
            found.append(one)
    return tuple(found)


def live(connection: Connection) -> tuple[Brief, ...]:
    """All tasks with a live attempt."""
    rows = connection.execute(select(*_BRIEF).where(tasks.c.state.in_(list(LIVE))))
    return tuple(Brief(*row) for row in rows)


def tasks_by_id(connection: Connection, ids: Sequence[int]) -> Iterator[Task]:
    """Those tasks, in any order."""
    for start in range(0, len(ids), IDS_MAX):
        query = _TASK.where(tasks.c.id.in_(ids[start : start + IDS_MAX]))
        yield from (_task(row) for row in connection.execute(query))


def all_queued(connection: Connection, now_ms: int) -> Iterator[Task]:
    """Every task that wants a place and may have one, by priority, then age."""
    query = (
        _TASK.join(allocations, allocations.c.id == jobs.c.allocation)
        .where(
            tasks.c.state == State.QUEUED,
            tasks.c.not_before_ms <= now_ms,
            allocations.c.starts_ms <= now_ms,
            allocations.c.ends_ms > now_ms,
        )
        .order_by(tasks.c.priority.desc(), tasks.c.id)
    )
    return (_task(row) for row in connection.execute(query))


def expired(connection: Connection, now_ms: int, limit: int) -> tuple[Task, ...]:
    """Tasks that wait for a place, or for other jobs, while their allocation has ended."""
    query = (
        _TASK.join(allocations, allocations.c.id == jobs.c.allocation)
        .where(tasks.c.state.in_([State.WAITING, State.QUEUED]), allocations.c.ends_ms <= now_ms)
        .order_by(tasks.c.id)
        .limit(limit)
    )
    return tuple(_task(row) for row in connection.execute(query))


def queued_reasons(connection: Connection, ids: Sequence[int]) -> dict[int, Reason | None]:
    """Of those tasks, the ones that are queued, and why they wait as far as it was said."""
    query: Select[tuple[object, ...]] = select(
        tasks.c.id, tasks.c.reason_code, tasks.c.reason
    ).where(tasks.c.state == State.QUEUED, tasks.c.id.in_(ids))
    return {row.id: _reason(row) for row in connection.execute(query)}


def live_states(connection: Connection, only: Collection[int] | None = None) -> dict[int, State]:
    """The states of all tasks with a live attempt, or of those of them that are named."""
    query = select(tasks.c.id, tasks.c.state).where(tasks.c.state.in_(list(LIVE)))
    if only is not None:
        query = query.where(tasks.c.id.in_(only))
    return {id_: State(state) for id_, state in connection.execute(query)}


def live_tasks(connection: Connection) -> dict[int, Task]:
    """All tasks with a live attempt, by row id."""
    rows = connection.execute(_TASK.where(tasks.c.state.in_(list(LIVE))))
    return {row.id: _task(row) for row in rows}


def state_counts(connection: Connection) -> dict[State, int]:
    """Tasks that have not ended, by state."""
    open_states = [state for state in State if state not in TERMINAL]
    rows = connection.execute(
        select(tasks.c.state, func.count())
        .where(tasks.c.state.in_(open_states))
        .group_by(tasks.c.state)
    )
    return {State(state): count for state, count in rows}


_ESTIMATED: Final = and_(start_estimates.c.task == tasks.c.id, tasks.c.state == State.QUEUED)
"""An estimate is of a task that still waits."""

_FOREMOST: Final = (
    select(tasks.c.id)
    .where(tasks.c.job == jobs.c.id, tasks.c.state == jobs.c.state)
    .order_by(tasks.c.array_index)
    .limit(1)
    .correlate(jobs)
    .scalar_subquery()
)
_POOLS: Final = (
    select(func.aggregate_strings(attempts.c.pool, ","))
    .where(attempts.c.job == jobs.c.id, attempts.c.closed_ms.is_(None))
    .correlate(jobs)
    .scalar_subquery()
)
_JOB: Final = (
    select(jobs, _POOLS.label("pools"), tasks.c.reason_code, tasks.c.reason, *starts.COLUMNS)
    .join_from(jobs, tasks, tasks.c.id == _FOREMOST, isouter=True)
    .outerjoin(start_estimates, _ESTIMATED)
)


def summary(connection: Connection, job: int) -> JobSummary | None:
    """A job as a list shows it, or None."""
    row = connection.execute(_JOB.where(jobs.c.id == job)).one_or_none()
    return None if row is None else _summary(row)


def spec_of(connection: Connection, job: int) -> JobSpec:
    """What a job asked for."""
    return read_spec(
        job, connection.execute(select(jobs.c.spec).where(jobs.c.id == job)).scalar_one()
    )


def whys(connection: Connection, job: int) -> tuple[TaskWhy, ...]:
    """Why each of a job's tasks is where it is, those that have not ended first."""
    query: Select[tuple[object, ...]] = (
        select(
            tasks.c.array_index,
            tasks.c.state,
            tasks.c.reason_code,
            tasks.c.reason,
            *starts.COLUMNS,
        )
        .join_from(tasks, start_estimates, _ESTIMATED, isouter=True)
        .where(tasks.c.job == job)
        .order_by(tasks.c.state.in_(list(TERMINAL)), tasks.c.array_index)
        .limit(TASKS_SHOWN_MAX)
    )
    return tuple(
        TaskWhy(
            index=row.array_index,
            state=State(row.state),
            reason=_reason(row),
            start=starts.of_row(row),
        )
        for row in connection.execute(query)
    )


def page(
    connection: Connection,
    *,
    of_projects: Sequence[str] | None,
    state: State | None,
    before: int | None,
    limit: int,
) -> tuple[JobSummary, ...]:
    """Jobs by falling number, below `before`.

    Each project is read along its own index and the results are merged, so that a page costs the
    same whatever the number of jobs. `of_projects` None means all.
    """

    def narrowed(project: str | None) -> Select[tuple[object, ...]]:
        query = _JOB.order_by(jobs.c.id.desc()).limit(limit)
        if project is not None:
            query = query.where(jobs.c.project == project)
        if state is not None:
            query = query.where(jobs.c.state == state)
        return query if before is None else query.where(jobs.c.id < before)

    named: Sequence[str | None] = [None] if of_projects is None else of_projects
    found: list[Iterator[Row[tuple[object, ...]]]] = [
        iter(connection.execute(narrowed(project)).all()) for project in named
    ]
    newest = merge(*found, key=lambda row: row.id, reverse=True)
    return tuple(_summary(row) for row in islice(newest, limit))


def _summary(row: Row[tuple[object, ...]]) -> JobSummary:
    return JobSummary(
        id=job_name(row.id),
        name=row.name,
        project=row.project,
        allocation=row.allocation,
        submitter=row.submitter,
        state=State(row.state),
        tasks=row.tasks,
        accepted_ms=row.accepted_ms,
        ended_ms=row.ended_ms,
        pools=tuple(sorted({*row.pools.split(",")})) if row.pools else (),
        reason=_reason(row),
        start=starts.of_row(row),
    )


# ---- dependencies --------------------------------------------------------------------------------


def dependants(connection: Connection, job: int) -> tuple[int, ...]:
    """Jobs with tasks that wait for this one."""
    rows = connection.scalars(
        select(job_dependencies.c.job)
        .join_from(job_dependencies, jobs, jobs.c.id == job_dependencies.c.job)
        .where(job_dependencies.c.on_job == job, jobs.c.state == State.WAITING)
        .distinct()
        .order_by(job_dependencies.c.job)
    )
    return tuple(rows)


def dependencies(connection: Connection, job: int) -> tuple[tuple[DependencyKind, int, State], ...]:
    """What a job depends on, and the states of those jobs."""
    rows = connection.execute(
        select(job_dependencies.c.kind, jobs.c.id, jobs.c.state)
        .join_from(job_dependencies, jobs, jobs.c.id == job_dependencies.c.on_job)
        .where(job_dependencies.c.job == job)
        .order_by(jobs.c.id)
    )
    return tuple((DependencyKind(row.kind), row.id, State(row.state)) for row in rows)

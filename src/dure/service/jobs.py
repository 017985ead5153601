"""What members ask of jobs after they submitted them: lists, reasons, logs, outputs, an end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from dure.control.transition import Happened, advance, call_back, conclude
from dure.errors import NotFoundError, Reason, RefusedError
from dure.life import TERMINAL, Event, State
from dure.people import NATION, Action, Principal
from dure.service import Service
from dure.service.access import require_seen
from dure.store import acts, attempts, events, jobs, projects
from dure.store.acts import Deed
from dure.store.jobs import TASKS_SHOWN_MAX, job_number
from dure.text import shown
from dure.views import (
    EventView,
    JobPage,
    JobSummary,
    JobView,
    LogChunk,
    TaskOutputs,
    TaskView,
    Why,
)

LOG_CHUNK_BYTES: Final = 65_536

_CANCELLABLE: Final = [
    State.WAITING,
    State.QUEUED,
    State.INTENDED,
    State.STARTING,
    State.RUNNING,
    State.UNKNOWN,
    State.RECALLING,
]
_RECALLABLE: Final = [State.INTENDED, State.STARTING, State.RUNNING, State.UNKNOWN]


def seen(
    connection: Connection, principal: Principal, job: str, action: Action = Action.READ_JOBS
) -> JobSummary:
    """A job that the principal may do that with; otherwise there is no such job (404)."""
    number = job_number(job)
    found = None if number is None else jobs.summary(connection, number)
    missing = NotFoundError("job", job)
    if found is None:
        raise missing
    require_seen(principal, action, found.project, missing)
    return found


def visible_projects(principal: Principal, action: Action) -> tuple[str, ...] | None:
    """The projects of which the principal may do that; None means all."""
    scopes = principal.scopes_of(action)
    return None if NATION in scopes else tuple(sorted(scopes))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQuery:
    """Which jobs to list: `after` is the cursor that the page before ended with."""

    project: str | None
    state: State | None
    after: str | None
    limit: int


def page(service: Service, principal: Principal, query: JobQuery) -> JobPage:
    """Jobs that the principal may see, newest first."""
    of_projects = visible_projects(principal, Action.READ_JOBS)
    if query.project is not None:
        missing = NotFoundError("project", query.project)
        require_seen(principal, Action.READ_JOBS, query.project, missing)
        of_projects = (query.project,)
    before = None if query.after is None else job_number(query.after)
    if query.after is not None and before is None:
        raise RefusedError("bad-cursor", f"after {shown(query.after)} is not a cursor of a page.")
    with service.database.read() as connection:
        found = jobs.page(
            connection,
            of_projects=of_projects,
            state=query.state,
            before=before,
            limit=query.limit,
        )
    return JobPage(found, found[-1].id if len(found) == query.limit else None)


def view(service: Service, principal: Principal, job: str) -> JobView:
    """A job whole, with at most its first 1,000 tasks."""
    with service.database.read() as connection:
        summary = seen(connection, principal, job)
        number = job_number(job)
        assert number is not None
        tasks = jobs.tasks_of(connection, number, limit=TASKS_SHOWN_MAX)
        runs = attempts.views_by_task(connection, number, (task.id for task in tasks))
        gpu_ms, charge = attempts.job_totals(connection, number)
        exits = jobs.exit_codes(connection, number)
        return JobView(
            summary=summary,
            spec=jobs.spec_of(connection, number),
            unit=projects.find_allocations(connection, ids=[summary.allocation])[0].unit,
            counts=jobs.counts(connection, number),
            gpu_ms=gpu_ms,
            charge=charge,
            tasks=tuple(
                TaskView(
                    index=task.index,
                    state=task.state,
                    reason=task.reason,
                    exit_code=exits.get(task.id),
                    attempts=tuple(runs.get(task.id, ())),
                )
                for task in tasks
            ),
        )


def why(service: Service, principal: Principal, job: str) -> Why:
    """Why a job is where it is: its tasks' reasons, and all that happened."""
    with service.database.read() as connection:
        summary = seen(connection, principal, job)
        number = job_number(job)
        assert number is not None
        return Why(
            job=summary.id,
            state=summary.state,
            tasks=jobs.whys(connection, number),
            events=events.of_job(connection, number),
        )


def cancel(service: Service, principal: Principal, job: str, task: int | None = None) -> JobSummary:
    """Cancel all of a job that has not ended, or one task. Idempotent. Members cancel their own
    jobs.
    """
    with service.database.write() as connection:
        summary = seen(connection, principal, job)
        own = principal.person == summary.submitter and principal.may(
            Action.SUBMIT, summary.project
        )
        if not own and not principal.may(Action.CANCEL_ANY, summary.project):
            raise RefusedError(
                "forbidden",
                f"{job} is {summary.submitter}'s; only they, a PI of {summary.project} "
                "or an administrator may cancel it.",
                status=403,
            )
        reason = Reason("cancelled", f"cancelled by {principal.person}")
        cancelled = Change(_CANCELLABLE, Event.CANCEL, reason, only=task)
        moved = _move_all(connection, service, summary, cancelled)
        if moved and not own:
            deed = Deed(
                act="job-cancelled",
                subject=f"job/{summary.id}",
                sentence=f"{summary.submitter}'s job {summary.id} was cancelled.",
            )
            acts.write(connection, principal, deed, service.now_ms())
        return _again(connection, summary)


def recall(service: Service, principal: Principal, job: str) -> JobSummary:
    """Call a job's GPUs back: notice, grace, and to the queue again."""
    with service.database.write() as connection:
        summary = seen(connection, principal, job)
        if not principal.may(Action.RECALL):
            raise RefusedError(
                "forbidden", "Only the programme office calls GPUs back.", status=403
            )
        reason = Reason("recalled", f"its GPUs were called back by {principal.person}")
        recalled = Change(_RECALLABLE, Event.RECALL, reason)
        if _move_all(connection, service, summary, recalled):
            deed = Deed(
                act="job-recalled",
                subject=f"job/{summary.id}",
                sentence=f"The GPUs of {summary.submitter}'s job {summary.id} were called back.",
            )
            acts.write(connection, principal, deed, service.now_ms())
        return _again(connection, summary)


@dataclass(frozen=True, slots=True)
class Change:
    """An event for those tasks of a job that are in some states; `only` is one task's index."""

    states: Sequence[State]
    event: Event
    reason: Reason
    only: int | None = None


def _move_all(
    connection: Connection, service: Service, summary: JobSummary, change: Change
) -> bool:
    """Move all tasks that a change is for; whether there were any.

    Raises:
        NotFoundError: it is for one task, and the job has none of that index.
    """
    number = job_number(summary.id)
    assert number is not None
    found = jobs.tasks_of(connection, number, change.states)
    if change.only is not None:
        if jobs.task_by_index(connection, number, change.only) is None:
            raise NotFoundError("task", f"{summary.id}, {change.only}")
        found = tuple(task for task in found if task.index == change.only)
    for task in found:
        if change.event is Event.RECALL:
            call_back(connection, task, change.reason, service.now_ms())
        else:
            happened = Happened(event=change.event, reason=change.reason)
            advance(connection, task, happened, service.now_ms())
    conclude(connection, [number], service.now_ms())
    service.wake()
    return bool(found)


def _again(connection: Connection, summary: JobSummary) -> JobSummary:
    number = job_number(summary.id)
    assert number is not None
    now = jobs.summary(connection, number)
    assert now is not None
    return now


# ---- what a job wrote ----------------------------------------------------------------------------


def outputs(service: Service, principal: Principal, job: str) -> tuple[TaskOutputs, ...]:
    """The manifests of a job's output files, by task."""
    with service.database.read() as connection:
        summary = seen(connection, principal, job, Action.READ_DATA)
        number = job_number(summary.id)
        assert number is not None
        return tuple(
            TaskOutputs(index=index, attempt=attempt, files=manifest)
            for index, attempt, manifest in attempts.last_outputs(connection, number)
        )


def output(service: Service, principal: Principal, job: str, index: int, sha256: str) -> Path:
    """Where the content of one output file is kept."""
    for found in outputs(service, principal, job):
        if found.index == index and any(file.sha256 == sha256 for file in found.files.files):
            return service.blobs.path(sha256)
    raise NotFoundError("output file", sha256)


def events_after(service: Service, principal: Principal, job: str, after: int) -> EventPage:
    """What happened to a job after event `after`, and whether it has ended."""
    with service.database.read() as connection:
        summary = seen(connection, principal, job)
        number = job_number(job)
        assert number is not None
        found = events.of_job(connection, number, after=after)
        return EventPage(found, ended=summary.state in TERMINAL and not found)


@dataclass(frozen=True, slots=True)
class EventPage:
    """Some events, and whether none can follow them."""

    events: tuple[EventView, ...]
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPosition:
    """How far a reader of a task's log is: the attempt's number and the byte in its log."""

    attempt: int = 1
    offset: int = 0


@dataclass(frozen=True, slots=True)
class LogPage:
    """A piece of log, the position after it, and whether none can follow."""

    chunk: LogChunk | None
    position: LogPosition
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """Whose log: a job's task, and a node's rank in it."""

    job: str
    task: int = 0
    rank: int = 0


def log(service: Service, principal: Principal, query: LogQuery, position: LogPosition) -> LogPage:
    """The next piece of a task's log, through all its attempts."""
    with service.database.read() as connection:
        summary = seen(connection, principal, query.job, Action.READ_DATA)
        number = job_number(summary.id)
        assert number is not None
        task = jobs.task_by_index(connection, number, query.task)
        if task is None:
            raise NotFoundError("task", f"{query.job}, {query.task}")
        runs = attempts.views_by_task(connection, number, [task.id]).get(task.id, [])
        state = task.state
    for run in runs:
        if run.number < position.attempt:
            continue
        offset = position.offset if run.number == position.attempt else 0
        size = service.logs.size(run.id, query.rank)
        closed = run.cause is not None
        if offset < size:
            raw = service.logs.read(run.id, query.rank, offset, LOG_CHUNK_BYTES)
            text, taken = _whole_characters(raw, final=closed and offset + len(raw) == size)
            if taken:
                chunk = LogChunk(
                    task_index=query.task,
                    attempt_number=run.number,
                    rank=query.rank,
                    offset=offset,
                    end=offset + taken,
                    text=text,
                )
                after = LogPosition(attempt=run.number, offset=offset + taken)
                return LogPage(chunk, after, ended=False)
        position = LogPosition(attempt=run.number, offset=offset)
        if not closed:
            break
    return LogPage(None, position, ended=state in TERMINAL)


def _whole_characters(raw: bytes, *, final: bool) -> tuple[str, int]:
    """As much of `raw` as ends with a whole character, and how many bytes that is."""
    taken = len(raw)
    if not final:
        for back in range(1, min(4, len(raw)) + 1):
            lead = raw[-back]
            if lead < 0x80:
                break
            if lead >= 0xC0:
                width = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
                taken = len(raw) - back if back < width else len(raw)
                break
    return raw[:taken].decode("utf-8", errors="replace"), taken

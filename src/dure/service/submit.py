"""Where a job's way begins: a submission is checked whole, then accepted whole, or refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Final

from sqlalchemy import Connection, insert, select

from dure import codec
from dure.allocations import Allocation
from dure.control.memory import Known
from dure.control.snapshot import Asked, Moment, plan_only, queue, request, world
from dure.control.transition import conclude, release
from dure.errors import NotFoundError, Reason, RefusedError
from dure.faults import crash_point
from dure.jobs import DependencyKind, JobSpec
from dure.life import TERMINAL
from dure.people import Action, Principal
from dure.scheduling import forecast, refusal
from dure.scheduling.world import Forecast
from dure.service import Service
from dure.service.access import require_seen
from dure.store import events, files, jobs, projects, secrets
from dure.store.events import Happening
from dure.store.jobs import NewJob, job_name, job_number
from dure.store.schema import submissions
from dure.text import shown
from dure.units import INT64_MAX
from dure.views import Accepted, JobRequest, JobSummary, Submission

_NEW = (-1, INT64_MAX, 0)
"""Task, job and index of what is not accepted yet: younger than all that is."""

OPEN_TASKS_OF_PROJECT_MAX: Final = 100_000

_KEY = re.compile(r"\A[\x21-\x7e]{1,128}\Z")


def submit(service: Service, principal: Principal, submission: Submission, key: str) -> Accepted:
    """Accept jobs, all or none. The same key and jobs again answer what was accepted before.

    Raises:
        RefusedError: what is wrong with which job; nothing was accepted.
    """
    if not _KEY.match(key):
        raise RefusedError(
            "bad-idempotency-key",
            f"Idempotency-Key {shown(key)} must be 1 to 128 visible ASCII characters.",
        )
    for project in sorted({asked.spec.project for asked in submission.jobs}):
        require_seen(principal, Action.SUBMIT, project, NotFoundError("project", project))
    fingerprint = service.vault.fingerprint(codec.encode(submission))
    with service.database.write() as connection:
        earlier = _earlier(connection, principal, key, fingerprint)
        if earlier is not None:
            return Accepted(earlier, repeated=True)
        accepted = _accept(connection, service, principal, submission)
        connection.execute(
            insert(submissions).values(
                person=principal.person,
                key=key,
                request_sha256=fingerprint,
                jobs=accepted,
                at_ms=service.now_ms(),
            )
        )
        summaries = _summaries(connection, accepted)
        crash_point("submit.before-commit")
    crash_point("submit.after-commit")
    service.wake()
    return Accepted(summaries, repeated=False)


def plan(service: Service, principal: Principal, spec: JobSpec) -> Forecast:
    """Where and when a job would run and for how much, and why not elsewhere. Commits nothing."""
    require_seen(
        principal, Action.READ_PROJECT, spec.project, NotFoundError("project", spec.project)
    )
    with service.database.read() as connection:
        moment = service.moment(connection)
        allocation = _allocation(connection, spec, moment)
        known = moment.known(connection)
        waiting = queue(connection, moment, known)
        now = world(connection, moment, known, waiting, [allocation.id])
        new = Asked(
            spec=spec,
            allocation=allocation.id,
            submitter=principal.person,
            key=_NEW,
            queued_ms=moment.now_ms,
        )
        return forecast(now, request(new, known), known.foresight)


# ---- accepting -----------------------------------------------------------------------------------


def _earlier(
    connection: Connection, principal: Principal, key: str, fingerprint: str
) -> tuple[JobSummary, ...] | None:
    row = connection.execute(
        select(submissions).where(
            submissions.c.person == principal.person, submissions.c.key == key
        )
    ).one_or_none()
    if row is None:
        return None
    if row.request_sha256 != fingerprint:
        raise RefusedError(
            "idempotency-key-reused",
            f"The Idempotency-Key {key} was used for another submission; choose a new one.",
            status=422,
        )
    return _summaries(connection, row.jobs)


def _summaries(connection: Connection, numbers: Sequence[int]) -> tuple[JobSummary, ...]:
    found = (jobs.summary(connection, number) for number in numbers)
    return tuple(summary for summary in found if summary is not None)


def _accept(
    connection: Connection, service: Service, principal: Principal, submission: Submission
) -> list[int]:
    """Every job, in an order in which each comes after what it depends on; their numbers."""
    moment = service.moment(connection)
    known = moment.known(connection)
    _check_room(connection, submission)
    numbers: dict[str, int] = {}
    accepted: dict[int, int] = {}
    for position in _in_dependency_order(submission.jobs):
        asked = submission.jobs[position]
        _check_workdir(connection, asked.spec)
        new = NewJob(
            spec=asked.spec,
            allocation=_allocation(connection, asked.spec, moment).id,
            submitter=principal.person,
            depends_on=_depends_on(connection, principal, asked.spec, numbers),
        )
        _check_possible(connection, moment, known, new)
        number = jobs.add_job(connection, new, moment.now_ms)
        secrets.keep(connection, service.vault, number, asked.secrets or {})
        reason = Reason("accepted", _accepted(new))
        happening = Happening(project=asked.spec.project, job=number, reason=reason)
        events.write(connection, happening, moment.now_ms)
        if new.depends_on and release(connection, number, moment.now_ms) in TERMINAL:
            conclude(connection, [number], moment.now_ms)
        numbers[asked.spec.name] = accepted[position] = number
    return [accepted[position] for position in sorted(accepted)]


def _check_room(connection: Connection, submission: Submission) -> None:
    """One project's queue must not fill the nation's database."""
    for project in sorted({asked.spec.project for asked in submission.jobs}):
        had = jobs.open_tasks(connection, project)
        if had + submission.tasks > OPEN_TASKS_OF_PROJECT_MAX:
            raise RefusedError(
                "too-many-tasks",
                f"Project {project} has {had:,} tasks that have not ended, and may have "
                f"{OPEN_TASKS_OF_PROJECT_MAX:,}; submit the others when some have.",
                status=429,
            )


def _accepted(new: NewJob) -> str:
    tasks = len(new.spec.indices)
    what = "accepted" if tasks == 1 else f"accepted with {tasks:,} tasks"
    if not new.depends_on:
        return f"{what}; queued"
    after = ", ".join(f"{kind} {job_name(job)}" for kind, job in new.depends_on)
    return f"{what}; waits for {after}"


def _check_possible(connection: Connection, moment: Moment, known: Known, new: NewJob) -> None:
    """Refuse now what could never run, with the scheduler's own reason."""
    allocation = projects.find_allocations(connection, ids=[new.allocation])[0]
    possible = plan_only(connection, moment, known, allocation)
    asked = Asked(
        spec=new.spec,
        allocation=new.allocation,
        submitter=new.submitter,
        key=_NEW,
        queued_ms=moment.now_ms,
    )
    never = refusal(possible, request(asked, known))
    if never is not None:
        raise RefusedError(never.code, f"{new.spec.name}: {never.sentence}", status=422)


def _check_workdir(connection: Connection, spec: JobSpec) -> None:
    if spec.workdir is None:
        return
    manifest = files.find_manifest(connection, spec.workdir)
    lacking = (
        None
        if manifest is None
        else files.missing(connection, spec.project, (f.sha256 for f in manifest.files))
    )
    if lacking is None or lacking:
        what = "was not registered" if lacking is None else f"lacks {len(lacking)} uploads"
        raise RefusedError(
            "workdir-incomplete",
            f"{spec.name}: workdir {spec.workdir} {what}; upload it first.",
            status=409,
        )


def _allocation(connection: Connection, spec: JobSpec, moment: Moment) -> Allocation:
    """The allocation that a job names, or its project's only open one."""
    of_project = projects.find_allocations(connection, of_projects=[spec.project])
    if spec.allocation is not None:
        for allocation in of_project:
            if allocation.id == spec.allocation:
                return allocation
        raise NotFoundError("allocation", spec.allocation)
    usable = [a for a in of_project if a.ends_ms > moment.now_ms]
    match usable:
        case [only]:
            return only
        case []:
            raise RefusedError(
                "no-allocation",
                f"{spec.name}: project {spec.project} has no allocation that is still open.",
                status=422,
            )
        case _:
            raise RefusedError(
                "allocation-unclear",
                f"{spec.name}: project {spec.project} has the allocations "
                f"{', '.join(a.id for a in usable)}; name one.",
                status=422,
            )


# ---- dependencies --------------------------------------------------------------------------------


def _in_dependency_order(asked: Sequence[JobRequest]) -> list[int]:
    """Positions such that each job comes after the ones of this submission that it names."""
    positions: dict[str, int] = {}
    for position, request_ in enumerate(asked):
        if request_.spec.name in positions:
            raise RefusedError(
                "name-twice",
                f"Two jobs of this submission are named {shown(request_.spec.name)}; "
                "give each its own name.",
                status=422,
            )
        positions[request_.spec.name] = position
    graph = {
        position: sorted(
            positions[dependency.job]
            for dependency in request_.spec.dependencies
            if dependency.job in positions
        )
        for position, request_ in enumerate(asked)
    }
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        names = " -> ".join(asked[position].spec.name for position in reversed(error.args[1]))
        raise RefusedError(
            "cyclic-dependencies",
            f"The jobs depend on each other in a circle: {names}.",
            status=422,
        ) from None


def _depends_on(
    connection: Connection, principal: Principal, spec: JobSpec, numbers: dict[str, int]
) -> tuple[tuple[DependencyKind, int], ...]:
    """Each dependency's job number: of this submission by name, or an earlier job by id."""
    found: list[tuple[DependencyKind, int]] = []
    for dependency in spec.dependencies:
        number = numbers.get(dependency.job, job_number(dependency.job))
        summary = None if number is None else jobs.summary(connection, number)
        if (
            number is None
            or summary is None
            or not principal.may(Action.READ_JOBS, summary.project)
        ):
            raise NotFoundError("job", dependency.job)
        if (dependency.kind, number) not in found:
            found.append((dependency.kind, number))
    return tuple(found)

"""Carry one event out: the table's answer and its effects, all in the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection

from dure import ledger, metering
from dure.agent.wire import DETAIL_MAX, AttemptReport
from dure.errors import Reason
from dure.jobs import DependencyKind
from dure.life import (
    CHARGED,
    PLATFORM_FAULTS,
    PLATFORM_RETRIES,
    TERMINAL,
    Effect,
    EndCause,
    Event,
    State,
    Step,
    step,
)
from dure.metering import Metered, Usage
from dure.store import attempts, events, files, jobs, lending, secrets
from dure.store import ledger as ledger_store
from dure.store.attempts import Attempt
from dure.store.events import Happening
from dure.store.jobs import Task, job_name
from dure.store.lending import Ran
from dure.units import MS_PER_S

BACKOFF_S_MAX: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """An event, why it happened, and what the site said of it if it did."""

    event: Event
    reason: Reason
    report: AttemptReport | None = None
    attestation: str | None = None
    """What the site has signed of an end."""


def advance(connection: Connection, task: Task, happened: Happened, now_ms: int) -> State:
    """Move a task by one event and carry the effects out; its state afterwards.

    Files that a report names and that its site did not bring are left out, and that is said.

    Where the task has moved on since it was read, nothing is done. Whoever moves tasks calls
    `conclude` on their jobs before the transaction ends, once for many tasks.

    Raises:
        ImpossibleEventError: the table has no such entry.
    """
    happened = replace(happened, report=_with_files_brought(connection, task, happened.report))
    platform = happened.event in PLATFORM_FAULTS
    left = task.platform_retries_left if platform else task.retries_left
    taken = step(task.state, happened.event, retries_left=left)
    attempt = attempts.attempt_of_task(connection, task.id)
    if not jobs.move_task(
        connection, task, taken.to, **_task_values(task, taken, happened, now_ms)
    ):
        return jobs.task(connection, task.id).state
    events.write(
        connection,
        Happening(
            project=task.project,
            job=task.job,
            reason=happened.reason,
            task=task.id,
            attempt=attempt.id if attempt else None,
            state=taken.to,
        ),
        now_ms,
    )
    for effect in taken.effects:
        if attempt is not None and effect is Effect.STOP_ATTEMPT:
            attempts.order_to_stop(connection, attempt, now_ms)
        if attempt is not None and effect is Effect.CLOSE_ATTEMPT:
            assert taken.cause is not None
            close_attempt(connection, attempt, taken.cause, happened, now_ms)
    return taken.to


def call_back(connection: Connection, task: Task, reason: Reason, now_ms: int) -> None:
    """Give a task notice that its GPUs are called back; it counts as such from now on."""
    advance(connection, task, Happened(event=Event.RECALL, reason=reason), now_ms)
    jobs.count_recall(connection, task.id)


def _task_values(task: Task, taken: Step, happened: Happened, now_ms: int) -> dict[str, object]:
    report = happened.report
    values: dict[str, object] = {
        "reason_code": happened.reason.code,
        "reason": happened.reason.sentence,
    }
    if taken.to in TERMINAL:
        values["ended_ms"] = now_ms
        values["exit_code"] = report.exit_code if report else None
    if report is not None and report.checkpoint is not None:
        values["checkpoint"] = report.checkpoint
    if taken.to is State.QUEUED and taken.cause is not None:
        values |= _requeue_values(task, taken.cause, happened.event, now_ms)
    elif taken.to is State.QUEUED:
        values["queued_ms"] = now_ms
    return values


def _requeue_values(task: Task, cause: EndCause, event: Event, now_ms: int) -> dict[str, object]:
    """A retry is spent; after platform faults the next attempt waits twice as long each time."""
    if cause is EndCause.ERRED:
        return {"retries_left": max(0, task.retries_left - 1)}
    if event not in PLATFORM_FAULTS:
        return {}
    faults = PLATFORM_RETRIES - task.platform_retries_left
    wait_s = min(BACKOFF_S_MAX, 1 << faults)
    return {
        "platform_retries_left": task.platform_retries_left - 1,
        "not_before_ms": now_ms + wait_s * MS_PER_S,
    }


def close_attempt(
    connection: Connection, attempt: Attempt, cause: EndCause, happened: Happened, now_ms: int
) -> None:
    """Meter an attempt, post what it cost and what was lent to it, free the rest of its hold and
    its GPUs.
    """
    report = happened.report
    ended_ms = report.ended_ms if report else None
    started_ms = report.started_ms if report else None
    if started_ms is None:
        started_ms = attempt.started_ms
    usage = Usage(
        attempt_id=attempt.id, gpus=attempt.gpus, started_ms=started_ms, ended_ms=ended_ms
    )
    not_after_ms = max(now_ms, attempt.intended_ms)  # our own clock may have been set back
    metered = metering.assess(usage, attempt.hold_gpu_ms, attempt.intended_ms, not_after_ms)
    charge = _post(connection, attempt, cause, metered, now_ms)
    started_ms = None if started_ms is None else possible_ms(attempt, started_ms, now_ms)
    ended_ms = None if ended_ms is None else possible_ms(attempt, ended_ms, now_ms)
    if started_ms is not None and ended_ms is not None:
        ran = Ran(from_ms=started_ms, to_ms=ended_ms, gpu_ms=metered.gpu_ms)
        lending.write(connection, attempt, ran, now_ms)
    attempts.change(
        connection,
        attempt.id,
        closed_ms=now_ms,
        cause=cause,
        started_ms=started_ms,
        ended_ms=ended_ms,
        exit_code=report.exit_code if report else None,
        detail=report.detail if report else happened.reason.sentence,
        gpu_ms=metered.gpu_ms,
        charge=charge,
        dispute=metered.dispute.sentence if metered.dispute else None,
        outputs=report.outputs if report else None,
        checkpoint=report.checkpoint if report else None,
        attestation=happened.attestation,
    )


def _post(
    connection: Connection, attempt: Attempt, cause: EndCause, metered: Metered, now_ms: int
) -> int:
    """Settle the attempt's hold in the ledger; the charge, in the allocation's unit."""
    opened = ledger_store.open_hold(connection, attempt.id)
    assert opened is not None, f"attempt {attempt.id} has no open hold"
    if metered.gpu_ms == 0 and metered.dispute is None:
        ledger_store.post(connection, ledger.void(opened, cause), now_ms)
        return 0
    bill = ledger.Bill(
        operator_id=attempt.operator,
        gpu_ms=metered.gpu_ms,
        charged=cause in CHARGED,
        cause=cause,
        disputed_gpu_ms=metered.disputed_gpu_ms,
        dispute=metered.dispute,
    )
    settled = ledger_store.post(connection, ledger.settle(opened, bill), now_ms)
    return ledger.charge_of(settled)


def possible_ms(attempt: Attempt, claimed_ms: int, now_ms: int) -> int:
    """The instant that a site names, as far as the attempt can have been there by then.

    Plans are made with it. What is charged is for `metering.assess`, which gets the claim itself.
    """
    if claimed_ms > now_ms + metering.SKEW_MS:
        return now_ms
    if claimed_ms < attempt.intended_ms - metering.SKEW_MS:
        return attempt.intended_ms
    return claimed_ms


def _with_files_brought(
    connection: Connection, task: Task, report: AttemptReport | None
) -> AttemptReport | None:
    """A report that names only trees with files in them that its site has really brought."""
    if report is None or (report.outputs is None and report.checkpoint is None):
        return report
    notes: list[str] = []
    outputs = _brought(connection, task, "outputs", report.outputs, notes)
    checkpoint = _brought(connection, task, "checkpoint", report.checkpoint, notes)
    detail = "; ".join(filter(None, [*notes, report.detail]))[:DETAIL_MAX]
    return replace(report, detail=detail, outputs=outputs, checkpoint=checkpoint)


def _brought(
    connection: Connection, task: Task, what: str, digest: str | None, notes: list[str]
) -> str | None:
    if digest is None:
        return None
    if (manifest := files.find_brought(connection, task.project, digest)) is None:
        notes.append(f"{what}: files were named but never brought")
        return None
    return digest if manifest.files else None


def conclude(connection: Connection, moved: Iterable[int], now_ms: int) -> None:
    """Bring jobs in line with their tasks. One that has ended loses its secrets, and what waited
    for it is let go or cancelled.
    """
    ended = [
        job for job in sorted(set(moved)) if jobs.refresh_state(connection, job, now_ms) in TERMINAL
    ]
    while ended:
        done = ended.pop()
        secrets.drop(connection, done)
        for dependant in jobs.dependants(connection, done):
            released = release(connection, dependant, now_ms)
            if released in TERMINAL:
                ended.append(dependant)


def release(connection: Connection, job: int, now_ms: int) -> State:
    """Queue or cancel a waiting job's tasks as its dependencies now stand."""
    happened = dependencies_say(jobs.dependencies(connection, job))
    waiting = jobs.tasks_of(connection, job, [State.WAITING])
    if happened is None or not waiting:
        return State.WAITING
    for task in waiting:
        taken = step(task.state, happened.event)
        jobs.move_task(connection, task, taken.to, **_task_values(task, taken, happened, now_ms))
    state = jobs.refresh_state(connection, job, now_ms)
    happening = Happening(project=waiting[0].project, job=job, reason=happened.reason, state=state)
    events.write(connection, happening, now_ms)
    return state


def dependencies_say(
    dependencies: tuple[tuple[DependencyKind, int, State], ...],
) -> Happened | None:
    """What a waiting job's dependencies mean for it now; None: keep waiting."""
    for kind, job, state in dependencies:
        if kind is DependencyKind.AFTEROK and state in TERMINAL and state is not State.SUCCEEDED:
            return Happened(
                event=Event.DEPENDENCY_FAILED,
                reason=Reason(
                    "dependency-never-satisfied",
                    f"cancelled: it was to run after {job_name(job)} succeeded, and that {state}",
                ),
            )
    if all(state in TERMINAL for _, _, state in dependencies):
        return Happened(
            event=Event.DEPENDENCIES_MET,
            reason=Reason("dependencies-met", "queued: the jobs it waited for have ended"),
        )
    return None

"""Step 5: write a plan down, one placement or recall at a time; what has gone stale is dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from dure import ledger, metering
from dure.agent.wire import Wish
from dure.allocations import Allocation, BudgetUnit
from dure.control.loans import Loans, Terms
from dure.control.snapshot import Moment
from dure.control.transition import call_back, conclude
from dure.errors import Reason, RefusedError
from dure.jobs import occupied_ms
from dure.life import Event, State, step
from dure.scheduling.world import Placement, Recall, Wait
from dure.store import attempts, events, jobs, projects, starts
from dure.store import ledger as ledger_store
from dure.store.attempts import Attempt
from dure.store.events import Happening
from dure.store.jobs import Task
from dure.units import MS_PER_S


def commit(
    connection: Connection,
    placements: Sequence[Placement],
    moment: Moment,
    loans: Loans,
    new_attempt_id: Callable[[], str],
) -> int:
    """Open an attempt for each placement that still holds; how many did."""
    moved = []
    tasks = {
        task.id: task for task in jobs.tasks_by_id(connection, [p.task_id for p in placements])
    }
    wanted = {task.allocation for task in tasks.values()}
    allocations = {a.id: a for a in projects.find_allocations(connection, ids=wanted)}
    for placement in placements:
        task = tasks[placement.task_id]
        if task.state is not State.QUEUED:
            continue
        try:
            with connection.begin_nested():
                allocation = allocations[task.allocation]
                terms = loans.terms(connection, placement)
                attempt = _attempt(task, placement, allocation, moment, terms, new_attempt_id())
                _open(connection, task, attempt, allocation, moment.now_ms)
        except RefusedError:
            continue  # the ledger has less left than the plan saw
        loans.opened(attempt)
        moved.append(task.job)
    conclude(connection, moved, moment.now_ms)
    return len(moved)


def give_notice(connection: Connection, recalls: Sequence[Recall], now_ms: int) -> int:
    """Call back each borrower that still runs, and is still needed to leave; how many were.

    One that was told to stop already, by a recall or otherwise, is not told again; a recall for a
    task that has started elsewhere or was cancelled is dropped.
    """
    moved = []
    for recall in recalls:
        task = jobs.task(connection, recall.task_id)
        attempt = attempts.attempt_of_task(connection, recall.task_id)
        if attempt is None or attempt.id != recall.attempt_id or attempt.wish is Wish.STOP:
            continue
        if jobs.task(connection, recall.for_task_id).state is not State.QUEUED:
            continue
        call_back(connection, task, recall.reason, now_ms)
        moved.append(task.job)
    conclude(connection, moved, now_ms)
    return len(moved)


def _attempt(
    task: Task,
    placement: Placement,
    allocation: Allocation,
    moment: Moment,
    terms: Terms,
    attempt_id: str,
) -> Attempt:
    pool = moment.scenario.fleet.pool(placement.pool_id)
    return Attempt(
        id=attempt_id,
        task=task.id,
        job=task.job,
        number=task.attempts + 1,
        cluster=pool.cluster_id,
        pool=pool.id,
        operator=pool.operator_id,
        gpu_model=pool.gpu_model,
        nodes=placement.nodes,
        slots_per_node=placement.slots_per_node,
        allocation=allocation.id,
        hold=placement.hold,
        hold_gpu_ms=placement.hold_gpu_ms,
        occupied_ms=occupied_ms(task.spec.walltime_s, task.spec.grace_s),
        factors=metering.factors(
            moment.scenario.tariff,
            pool.gpu_model,
            task.spec.tier,
            pool.operator_id,
            moment.now_ms,
            allocation.subsidy_milli,
        ),
        placed=placement.reason,
        wish=Wish.RUN,
        intended_ms=moment.now_ms,
        lease_until_ms=moment.now_ms + moment.settings.lease_s * MS_PER_S,
        share=terms.share,
        guarantor=terms.guarantor,
        lenders=terms.lenders,
    )


def _open(
    connection: Connection, task: Task, attempt: Attempt, allocation: Allocation, now_ms: int
) -> None:
    """Attempt, hold, state and event in one: step 1 of the submit protocol."""
    taken = step(task.state, Event.PLACED)
    jobs.move_task(
        connection,
        task,
        taken.to,
        attempts=attempt.number,
        reason_code=attempt.placed.code,
        reason=attempt.placed.sentence,
    )
    starts.came_true(connection, task.id, now_ms)
    attempts.open_attempt(connection, attempt)
    priced = attempt.factors if allocation.unit is BudgetUnit.UCREDIT else None
    held = ledger.hold(allocation.id, allocation.unit, attempt.id, attempt.hold_gpu_ms, priced)
    ledger_store.post(connection, held, now_ms)
    happening = Happening(
        project=task.project,
        job=task.job,
        reason=attempt.placed,
        task=task.id,
        attempt=attempt.id,
        state=taken.to,
    )
    events.write(connection, happening, now_ms)


def keep_reasons(connection: Connection, waits: Sequence[Wait], now_ms: int) -> None:
    """Keep why tasks wait; a new kind of reason is also an event."""
    kept = jobs.queued_reasons(connection, [wait.task_id for wait in waits])
    new = {
        wait.task_id: wait.reason
        for wait in waits
        if wait.task_id in kept and kept[wait.task_id] != wait.reason
    }
    jobs.set_reasons(connection, new)
    turned = [id_ for id_, reason in new.items() if _code(kept[id_]) != reason.code]
    for task in sorted(jobs.tasks_by_id(connection, turned), key=lambda task: task.id):
        happening = Happening(
            project=task.project, job=task.job, reason=new[task.id], task=task.id, state=task.state
        )
        events.write(connection, happening, now_ms)


def _code(reason: Reason | None) -> str | None:
    return None if reason is None else reason.code

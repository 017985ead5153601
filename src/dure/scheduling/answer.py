"""What a board has decided, as a plan: every start, recall, reservation and wait with its reason.

Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Iterator

from dure.errors import Reason
from dure.scheduling import explain
from dure.scheduling.board import Board
from dure.scheduling.gate import Choice
from dure.scheduling.lane import ordinals
from dure.scheduling.lines import Kind
from dure.scheduling.reasons import Reasons, vacates_ms
from dure.scheduling.waiting import Task
from dure.scheduling.world import Occupation, Placement, Plan, Recall, Request, Reservation, Wait


def answer(board: Board) -> Plan:
    """The plan of a board that has just decided."""
    reasons = Reasons(board)
    return Plan(
        placements=tuple(_placement(board, task) for task in board.scheduler.starts),
        reservations=tuple(_reservations(board)),
        recalls=tuple(_recalls(board)),
        waits=(
            *(_wait(task.source, reasons.of(task)) for task in board.waiting.values()),
            *(_wait(one, reasons.outside(one)) for one in board.outside.values()),
        ),
        unfinished=board.scheduler.unfinished,
    )


def _wait(request: Request, reason: Reason) -> Wait:
    return Wait(task_id=request.task_id, job_id=request.job_id, reason=reason)


def _placement(board: Board, task: Task) -> Placement:
    request: Request = task.source
    kind: Kind = task.line.source
    assert task.lane is not None
    quote = kind.quotes[task.lane.pool_id]
    choice = board.gate.choices.get(task.serial)
    where = f"{quote.pool.id} of {quote.pool.operator_id}"
    why = [*_why_there(task, choice), *kind.found.by_rule]
    return Placement(
        task_id=request.task_id,
        job_id=request.job_id,
        pool_id=quote.pool.id,
        nodes=tuple(ordinals(task.nodes)),
        slots_per_node=task.slots,
        hold=quote.hold(request.occupied_ms),
        hold_gpu_ms=quote.hold_gpu_ms(request.occupied_ms),
        reason=explain.placed(request, where, why, _ahead(task, choice)),
        guarantor=None if task.promise is None else task.promise.share,
    )


def _why_there(task: Task, choice: Choice | None) -> Iterator[str]:
    allowed = len(task.line.demand.offers)
    if allowed == 1:
        yield "the only pool that may run it"
    elif choice is not None and task.promise is None:
        yield _why_of(choice, allowed)
    if task.promise is not None:
        yield explain.under_guarantee(task.promise.share)
    elif task.lane is not None and task.lane.promised:
        yield explain.BEYOND_ANY


def _why_of(choice: Choice, allowed: int) -> str:
    if choice.runner_up is None:
        return f"the only one of {allowed} allowed pools with room now"
    cost, risk, leftover, _ = choice.chosen
    next_cost, next_risk, next_leftover, _ = choice.runner_up
    if cost < next_cost:
        why = "cheapest"
    elif risk < next_risk:
        why = "least likely to be called back"
    elif leftover < next_leftover:
        why = "tightest fit"
    else:
        why = "first by name"
    return f"{why} of {choice.rooms} with room now, of {explain.count(allowed, 'allowed pool')}"


def _ahead(task: Task, choice: Choice | None) -> str | None:
    keep = None if choice is None else choice.ahead_of
    if keep is None or keep.demand is task.line.demand or keep.task is None:
        return None
    until_ms = keep.until_ms if task.nodes & keep.nodes else None
    return explain.ahead_of(keep.task.source.job_id, until_ms=until_ms)


def _reservations(board: Board) -> Iterator[Reservation]:
    for lane in board.lanes.values():
        keep = lane.head
        if keep is not None and keep.task is not None:
            yield Reservation(
                task_id=keep.task.source.task_id,
                pool_id=lane.pool_id,
                nodes=tuple(ordinals(keep.nodes)),
                slots_per_node=keep.slots,
                starts_ms=keep.until_ms,
            )


def _recalls(board: Board) -> Iterator[Recall]:
    for victim, owed in board.scheduler.recalls:
        held = victim.source
        if not isinstance(held, Occupation) or owed.keep is None or owed.keep.promise is None:
            continue
        out_ms = vacates_ms(victim, board.world)
        share = owed.keep.promise.share
        yield Recall(
            attempt_id=held.attempt_id,
            task_id=held.task_id,
            job_id=held.job_id,
            pool_id=held.pool_id,
            for_task_id=owed.source.task_id,
            for_share=share,
            vacates_ms=out_ms,
            reason=explain.recalled(share, owed.source.job_id, out_ms),
        )

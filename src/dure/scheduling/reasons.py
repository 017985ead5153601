"""Why what waits does so, after a decision.

Reasons are made once for all that stand alike towards the pools: a queue of 100,000 has a few
thousand such looks. Nothing in them moves by itself, as they are stored where they change.
"""

from __future__ import annotations

from dure.errors import Reason
from dure.scheduling import explain
from dure.scheduling.board import Board
from dure.scheduling.explain import Outlook, Standing
from dure.scheduling.lane import Lane
from dure.scheduling.lines import Kind
from dure.scheduling.shadow import shadow
from dure.scheduling.waiting import Line, Offer, Task, Turn
from dure.scheduling.world import Occupation, Request, World
from dure.units import MILLI


def vacates_ms(leaving: Task, world: World) -> int:
    """When somebody who has notice must be out."""
    held: Occupation = leaving.source
    if held.recalled_ms is not None:
        return held.ends_ms
    return world.now_ms + MILLI * max(held.grace_s, world.tuning.recall_s)


class Reasons:
    """Reasons of one instant, for a board that has just decided."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._budgets = board.gate.budgets
        self._now_ms = board.world.now_ms
        self._turns: dict[int, tuple[Turn, str] | None] = {}
        self._by_line: dict[Line, Reason] = {}
        self._by_look: dict[tuple[object, ...], Reason] = {}
        self._leaving: dict[int, list[Task]] = {}
        for task in board.running.values():
            if task.notice_ms is not None and task.lane is not None:
                self._leaving.setdefault(task.lane.index, []).append(task)
        self._standings: dict[tuple[int, Lane | None], Standing] = {}
        self._outlooks: dict[tuple[object, ...], Outlook] = {}

    def outside(self, request: Request) -> Reason:
        """Of a request that is in no line: nobody pays for it, or no pool may run it."""
        if obstacle := self._budgets.obstacle(request):
            return obstacle
        allocation = self._budgets.allocation(request)
        assert allocation is not None
        return self._board.lines.quotes.nowhere(request, allocation)

    def of(self, task: Task) -> Reason:
        """Of a task in line."""
        if task.keep is not None:
            return self._owed(task)
        if obstacle := self._budgets.own_obstacle(task.source):
            return obstacle
        keep = task.line.demand.keep
        if keep is not None and keep.task is task:
            return self._blocked(task, keep.lane)
        reason = self._by_line.get(task.line)
        if reason is None:
            reason = self._by_line[task.line] = self._of_line(task)
        return reason

    def _of_line(self, task: Task) -> Reason:
        """Of any task of a line but the one that nodes are kept for."""
        if obstacle := self._budgets.kinds_obstacle(task.source):
            return obstacle
        scheduler = self._board.scheduler
        if scheduler.is_untried(task.line.demand):
            return explain.next_cycle(task.source, len(scheduler.starts))
        kind: Kind = task.line.source
        if kind.apart and (short := self._budgets.short_everywhere(task.source, kind.found.quotes)):
            return short
        return self._blocked(task, None)

    def _owed(self, task: Task) -> Reason:
        keep = task.keep
        assert keep is not None
        lane = keep.lane
        leaving = [t for t in self._leaving.get(lane.index, ()) if t.nodes & keep.nodes]
        out_ms = max((vacates_ms(one, self._board.world) for one in leaving), default=keep.until_ms)
        return explain.waiting_for_recall(task.source, lane.pool_id, len(leaving), out_ms)

    def _blocked(self, task: Task, reserved: Lane | None) -> Reason:
        kind: Kind = task.line.source
        others_turn = reserved is None and self._is_others_turn(task.line)
        key = (kind.look, id(kind.covering), reserved, others_turn)
        reason = self._by_look.get(key)
        if reason is None:
            reason = self._by_look[key] = self._look(task, reserved, others_turn=others_turn)
        return reason

    def _look(self, task: Task, reserved: Lane | None, *, others_turn: bool) -> Reason:
        kind: Kind = task.line.source
        besides = list(kind.found.by_rule)
        turn = None
        if beyond := _beyond(task.line):
            turn = explain.BEYOND_GUARANTEE
            besides.append(beyond)
        if others_turn:
            turn = explain.FAIR_SHARE
            besides.append(explain.OTHERS_TURN)
        return explain.blocked(task.source, self._standing(task, reserved), besides, turn)

    def _standing(self, task: Task, reserved: Lane | None) -> Standing:
        kind: Kind = task.line.source
        key = (kind.look, reserved)
        if key not in self._standings:
            demand, ends_ms = task.line.demand, self._now_ms + task.bound_ms
            outlooks = [
                self._outlook(demand.count, offer, ends_ms, own=reserved is offer.lane)
                for offer in demand.offers
            ]
            pool_id = None if reserved is None else reserved.pool_id
            self._standings[key] = explain.standing(task.source, outlooks, pool_id)
        return self._standings[key]

    def _is_others_turn(self, line: Line) -> bool:
        """Whether the same is wanted for a share that has used less of what it is due."""
        demand = line.demand
        if demand.serial not in self._turns:
            turns = [(one.turn, one.share) for one in demand.lines if one.turn is not None]
            self._turns[demand.serial] = min(turns, default=None)
        first = self._turns[demand.serial]
        if first is None or line.turn is None or first[1] == line.share:
            return False
        return first[0][:2] < line.turn[:2]

    def _outlook(self, count: int, offer: Offer, ends_ms: int, *, own: bool) -> Outlook:
        key = (offer.lane.index, offer.slots, count, ends_ms, own)
        if key not in self._outlooks:
            self._outlooks[key] = self._look_at(count, offer, ends_ms, own=own)
        return self._outlooks[key]

    def _look_at(self, count: int, offer: Offer, ends_ms: int, *, own: bool) -> Outlook:
        lane = offer.lane
        head = None if own else lane.head
        may_use = own or (head is not None and ends_ms <= head.until_ms)
        most, open_ = lane.most(offer.slots), lane.room(offer.slots)
        free = most if may_use else open_
        sight = None if head is not None else shadow(lane, count, offer.slots, self._now_ms)
        next_task = sight.next_task if sight is not None else None
        return Outlook(
            pool_id=lane.pool_id,
            silent=lane.silent,
            up=lane.up.bit_count(),
            free=free,
            kept_free=most - free,
            kept_for_job_id=head.task.source.job_id if head is not None and head.task else None,
            kept_ms=head.until_ms if head is not None else 0,
            next_ms=sight.next_ms if sight is not None and next_task is not None else None,
            next_job_id=next_task.source.job_id if next_task is not None else 0,
            starts_ms=sight.starts_ms if sight is not None else 0,
        )


def _beyond(line: Line) -> str | None:
    """How its share's guarantee is in use, where there is one and nothing of it is left."""
    nearest = [line.promises[offer.lane.index][0] for offer in line.promised]
    own = [promise for promise in nearest if promise.gpus]
    if not own or any(line.open()):
        return None
    share = own[0].share
    mine = [promise for promise in own if promise.share == share]
    return explain.beyond_guarantee(
        share, sum(promise.gpus for promise in mine), sum(promise.used for promise in mine)
    )

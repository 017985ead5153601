"""A board run forward on its own, as if nothing new came: when tasks start, balances and all.

What runs ends when it is expected to (`ahead` says when that is), frees what it held of its
allocation, and is charged all of its hold. A crowded nation is gone through in steps: each goes
past several ends, so a start is foreseen late by a few of them at most.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from heapq import heapify, heappop, heappush
from typing import Final

from dure.scheduling.ahead import expected_end_ms
from dure.scheduling.board import Board
from dure.scheduling.lines import Kind
from dure.scheduling.waiting import Task
from dure.scheduling.world import Request, World

_STEPS_MAX: Final = 1_000
_FINEST: Final = 64
_COARSEST: Final = 4
_FINENESS_BY_QUEUE: Final = 25_000
"""A step goes past one in so many of the ends to come (25,000 through the queue's length, from 4 to
64), so a crowded nation takes dozens of steps and a small one a step for each end."""


class Trial:
    """One run forward from a world."""

    def __init__(self, world: World) -> None:
        self._board = Board(world, tells=False)
        self._now_ms = world.now_ms
        self._ends = [
            (expected_end_ms(task, world.now_ms), task.serial, task)
            for task in self._board.running.values()
        ]
        heapify(self._ends)
        self._opens = sorted(
            state.allocation.starts_ms
            for state in world.allocations
            if state.allocation.starts_ms > world.now_ms
        )
        queue = 1 + len(world.requests)
        self._fineness = min(_FINEST, max(_COARSEST, _FINENESS_BY_QUEUE // queue))

    def starts(self, task_ids: Collection[int]) -> Mapping[int, int]:
        """When these tasks of the queue start; those that are not foreseen to are left out."""
        waiting = self._board.waiting
        wanted = {waiting[id_].serial: id_ for id_ in task_ids if id_ in waiting}
        found = self._run(wanted)
        return {wanted[serial]: at_ms for serial, at_ms in found.items()}

    def probe(self, request: Request, pools: Iterable[str]) -> Mapping[str, int]:
        """When the request could start in each of these pools, which may run it. It asks in all of
        them at a time, and takes nothing where it may start.
        """
        asked = {self._board.probe(request, pool_id).serial: pool_id for pool_id in pools}
        found = self._run(asked)
        return {asked[serial]: at_ms for serial, at_ms in found.items()}

    def _run(self, wanted: Collection[int]) -> Mapping[int, int]:
        left = set(wanted)
        found: dict[int, int] = {}
        for _ in range(_STEPS_MAX):
            while started := self._decide():
                for serial in started & left:
                    found[serial] = self._now_ms
                left -= started
            if not left or not self._step():
                break
        return found

    def _decide(self) -> set[int]:
        """Decide until nothing starts any more; the serials of what did, probes among them."""
        scheduler, now_ms = self._board.scheduler, self._now_ms
        scheduler.decide(now_ms)
        for task in scheduler.starts:
            if task.serial in self._board.gate.probes:
                scheduler.ended(task, now_ms)
            else:
                heappush(self._ends, (now_ms + task.expected_ms, task.serial, task))
        for victim, _ in scheduler.recalls:
            out_ms = now_ms + scheduler.tuning.recall_s * 1_000
            heappush(self._ends, (out_ms, victim.serial, victim))
        return {task.serial for task in scheduler.starts}

    def _step(self) -> bool:
        """Go on to where some more have ended, or a window opens; False where nothing comes."""
        ends, opens = self._ends, self._opens
        wake_ms = self._board.scheduler.wake_ms
        times = [opens[0]] if opens else []
        if wake_ms is not None:
            times.append(max(wake_ms, self._now_ms + 1))
        past = [heappop(ends) for _ in range(min(len(ends), max(1, len(ends) // self._fineness)))]
        if past:
            times.append(max(past[-1][0], self._now_ms + 1))
        if not times:
            return False
        self._now_ms = self._board.gate.budgets.now_ms = min(times)
        while opens and opens[0] <= self._now_ms:
            opens.pop(0)
        for entry in past:
            heappush(ends, entry)
        while ends and ends[0][0] <= self._now_ms:
            task = heappop(ends)[2]
            if task.lane is not None:
                self._over(task)
        self._board.scheduler.readmit()
        return True

    def _over(self, task: Task) -> None:
        """A run is over; what was called back is queued again for all of its time."""
        budgets = self._board.gate.budgets
        pool_id = task.lane.pool_id if task.lane is not None else ""
        self._board.scheduler.ended(task, self._now_ms)
        if not isinstance(task.source, Request):
            budgets.vacate(task.source)
            return
        kind: Kind = task.line.source
        budgets.end(task.source, kind.quotes[pool_id])
        if task.notice_ms is not None:
            task.notice_ms = None
            self._board.scheduler.submit(task)

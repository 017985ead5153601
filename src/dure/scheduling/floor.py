"""The floor that is scheduled: what runs, what is kept, who waits; and what happens to it.

Events are told here. Nothing is decided: what an event may have made room for is noted, and the
`scheduler` looks there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from dure.scheduling.fairshare import FairShare
from dure.scheduling.lane import Keep, Lane, Nodes
from dure.scheduling.promise import Promise
from dure.scheduling.queue import Queue
from dure.scheduling.tuning import Tuning
from dure.scheduling.waiting import Claim, Demand, Offer, Task

UNBOUNDED = 1 << 62
"""As many decisions at once as there are to make."""


class Gate(Protocol):
    """What else may stand in a task's way: its allocation, its array's cap. It is asked and told
    while decisions are made, so that no two of them spend the same.
    """

    def holds_up(self, task: Task) -> bool:
        """Whether the task can start nowhere now, whatever is free."""

    def admits(self, task: Task, offer: Offer) -> bool:
        """Whether the task may start on this offer now."""

    def starts(self, task: Task, offer: Offer) -> None:
        """The task starts on this offer, or nodes are emptied for it."""

    def reserves(self, task: Task, offer: Offer) -> None:
        """Nodes of this offer are kept for the task."""


class Floor:
    """The state of the nation, as far as scheduling needs it."""

    def __init__(
        self, lanes: Iterable[Lane], tuning: Tuning, fair: FairShare | None = None
    ) -> None:
        self.lanes = tuple(lanes)
        self.tuning = tuning
        self.fair = fair
        self.gate: Gate | None = None
        self.starts: list[Task] = []
        """Of the latest decision: each has its lane, nodes and promise."""
        self.recalls: list[tuple[Task, Task]] = []
        """Of the latest decision: who is given notice, and for whom."""
        self.held_up: list[Task] = []
        """Tasks that the gate has taken out of their lines; `readmit` puts them back."""
        self.unfinished = False
        """Whether the latest decision stopped at `most`: the next goes on where it stopped."""
        self._queue = Queue(tuning, fair)
        self._now_ms = 0
        self._most = UNBOUNDED
        self._fresh: list[Task] = []
        self._freed: dict[int, Lane] = {}
        self._stirred: dict[int, Lane] = {}
        """All that this decision found freed, and those before it that it goes on from."""
        self._vacant: dict[int, Lane] = {}
        """Lanes that have lost the head that nodes were kept for, until another has come up."""
        self._touched: dict[int, Demand] = {}
        self._claiming: dict[Claim, None] = {}
        self._wakes: list[tuple[int, int]] = []
        self._notice_ms = tuning.recall_s * 1_000
        self._min_runtime_ms = tuning.min_runtime_s * 1_000
        self._short_ms = tuning.borrow_before_recall_s * 1_000

    # ---- what happens ----------------------------------------------------------------------------

    def submit(self, task: Task) -> None:
        """A task waits from now on."""
        self._fresh.append(task)

    def withdraw(self, task: Task) -> None:
        """A waiting task is wanted no more."""
        if task.keep is not None:
            self._release(task.keep)
        elif task.place is not None:
            demand = task.line.demand
            self._queue.leave(task)
            self._touched[demand.serial] = demand
            if demand.keep is not None and demand.keep.task is task:
                self._release(demand.keep)
        else:
            self._fresh.remove(task)

    def ended(self, task: Task, now_ms: int) -> None:
        """A task that ran runs no more, whatever the reason; its nodes are free."""
        lane, promise = task.lane, task.promise
        assert lane is not None
        lane.unlist(task)
        lane.fasten(task)
        lane.take(task.nodes, -task.slots)
        lane.running -= 1
        task.lane = None
        if promise is not None:
            promise.used -= task.gpus
            self._cover_own(promise)
            task.promise = None
        else:
            lane.borrowing -= 1
            lane.lent -= task.gpus
        self._freed[lane.index] = lane
        if self.fair is not None and task.line.share:
            self.fair.ends(task.line.share, lane.weight_milli * task.gpus, now_ms)
            self._queue.uses_less(task.line.share, now_ms)

    def saved(self, task: Task, at_ms: int) -> None:
        """A running task has written a checkpoint."""
        task.saved_ms, task.tells = at_ms, True
        if task.lane is not None:
            task.lane.note(task)

    def nodes_changed(self, lane: Lane, up: Nodes) -> None:
        """These nodes of a lane may be used now, and no others."""
        lane.take_down(lane.up & ~up)
        lane.bring_up(up)
        for keep in [keep for keep in lane.keeps if keep.nodes & ~up]:
            task = keep.task
            self._release(keep)
            if keep.promise is not None and task is not None:
                self.submit(task)
        self._freed[lane.index] = lane

    def promised(self, promise: Promise, gpus: int) -> None:
        """A share is promised so many GPUs of a lane from now on."""
        promise.lane.promised += gpus - promise.gpus
        promise.gpus = gpus
        self._cover_own(promise)
        self._freed[promise.lane.index] = promise.lane

    def unreserve(self) -> None:
        """Keep nodes for no blocked head any more: what was reckoned with has moved."""
        for lane in self.lanes:
            if lane.head is not None:
                self._release(lane.head)

    def readmit(self) -> None:
        """Put back what the gate held up."""
        for task in self.held_up:
            self.submit(task)
        self.held_up = []

    @property
    def wake_ms(self) -> int | None:
        """When to decide again even if nothing happens: somebody's wait or a borrower's minimum
        runtime is over by then.
        """
        alarm_ms = self._queue.alarm_ms
        if not self._wakes:
            return alarm_ms
        wake_ms = self._wakes[0][0]
        return wake_ms if alarm_ms is None else min(alarm_ms, wake_ms)

    @property
    def active(self) -> bool:
        """Whether anything waits."""
        return bool(self._queue.active)

    def waiting(self) -> list[Demand]:
        """The demands with something waiting, in order of age."""
        return [demand for _, demand in sorted(self._queue.active.items())]

    # ---- the means -------------------------------------------------------------------------------

    def _run(self, task: Task, lane: Lane, nodes: Nodes, promise: Promise | None) -> None:
        now_ms = self._now_ms
        lane.take(nodes, task.slots)
        lane.running += 1
        task.lane, task.nodes, task.promise = lane, nodes, promise
        task.started_ms = task.saved_ms = now_ms
        task.tells = False
        task.release_ms = now_ms + task.bound_ms
        task.notice_ms = None
        if promise is None:
            lane.borrowing += 1
            lane.lent += task.gpus
        lane.note(task)
        self.starts.append(task)
        if self.fair is not None and task.line.share:
            self.fair.starts(task.line.share, lane.weight_milli * task.gpus, now_ms)
            self._queue.uses_more(task.line.share)

    def _release(self, keep: Keep) -> None:
        """Nodes are kept no longer."""
        lane, task = keep.lane, keep.task
        lane.let_go(keep)
        if keep.promise is not None and task is not None:
            keep.promise.used -= task.gpus
            self._cover_own(keep.promise)
            task.keep = None
        if (demand := keep.demand) is not None:
            demand.keep = demand.blocked = None
            self._touched[demand.serial] = demand
            self._vacant[lane.index] = lane
        self._freed[lane.index] = lane

    def _cover_own(self, promise: Promise) -> None:
        """A promise has room again: what its share borrows right there moves under it."""
        own, lane = promise.own, promise.lane
        while own and promise.gpus > promise.used:
            task = own[0]
            if task.lane is lane and task.promise is None and task.notice_ms is None:
                if task.gpus > promise.gpus - promise.used:
                    break
                task.promise = promise
                promise.used += task.gpus
                lane.fasten(task)
                lane.borrowing -= 1
                lane.lent -= task.gpus
            own.popleft()

"""A copy of the scheduler's state, to run ahead with: what it decides there happens nowhere."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from dure.scheduling.fairshare import FairShare
from dure.scheduling.lane import Keep, Lane
from dure.scheduling.promise import Promise
from dure.scheduling.scheduler import Scheduler
from dure.scheduling.waiting import Demand, Line, Offer, Promises, Task


class StillRanks(FairShare):
    """Fair share as it stood: a look ahead does not guess what usage will have become."""

    def __init__(self, fair: FairShare, now_ms: int) -> None:
        self._fair = fair
        self._at_ms = now_ms

    def starts(self, share: str, rate_milli: int, at_ms: int) -> None:
        """Nothing."""

    def ends(self, share: str, rate_milli: int, at_ms: int) -> None:
        """Nothing."""

    def rank(self, share: str, now_ms: int) -> tuple[int, ...]:  # noqa: ARG002 (as its base)
        """As it stood."""
        return self._fair.rank(share, self._at_ms)


@dataclass(slots=True)
class Fork:
    """A copied scheduler, and its tasks by serial: those that run and those that wait."""

    scheduler: Scheduler
    running: dict[int, Task] = field(default_factory=dict)
    waiting: dict[int, Task] = field(default_factory=dict)


def fork(scheduler: Scheduler, now_ms: int) -> Fork:
    """Copy a scheduler between two decisions. The work grows with what runs and what waits."""
    lanes = [_lane(lane) for lane in scheduler.lanes]
    fair = None if scheduler.fair is None else StillRanks(scheduler.fair, now_ms)
    made = Fork(Scheduler(lanes, scheduler.tuning, fair))
    copies = _Copies(made, lanes)
    for demand in scheduler.waiting():
        copies.demand(demand)
    for lane in scheduler.lanes:
        copies.runs(lane)
        copies.owed(lane)
    for task in made.waiting.values():
        made.scheduler.submit(task)
    return made


def _lane(lane: Lane) -> Lane:
    new = Lane(lane.index, lane.pool_id, lane.slots)
    new.silent = lane.silent
    new.up = lane.up
    new.free, new.reach = lane.free.copy(), lane.reach.copy()
    new.idle = lane.idle
    new.weight_milli = lane.weight_milli
    new.promised = lane.promised
    for share, promise in lane.promises.items():
        own = new.promises[share] = Promise(share, new, lends=promise.lends)
        own.gpus = promise.gpus
    new.withheld = tuple(promise for promise in new.promises.values() if not promise.lends)
    return new


class _Copies:
    """What has been copied so far."""

    def __init__(self, made: Fork, lanes: list[Lane]) -> None:
        self._made = made
        self._lanes = lanes
        self._lines: dict[tuple[int, str, int], Line] = {}
        self._demands: dict[int, Demand] = {}
        self._covering: dict[int, Promises] = {}

    def demand(self, demand: Demand) -> None:
        """A demand and all that waits in it."""
        for line in demand.lines:
            for task in line.tasks():
                new = self._task(task)
                self._made.waiting[new.serial] = new

    def runs(self, lane: Lane) -> None:
        """What runs in a lane."""
        target = self._lanes[lane.index]
        for _, _, task in lane.releases:
            new = self._task(task)
            new.lane, new.nodes = target, task.nodes
            new.started_ms, new.release_ms = task.started_ms, task.release_ms
            new.saved_ms, new.tells = task.saved_ms, task.tells
            new.notice_ms, new.loose = task.notice_ms, task.loose
            target.running += 1
            if task.promise is not None:
                new.promise = target.promises[task.promise.share]
                new.promise.used += task.gpus
            else:
                target.borrowing += 1
                target.lent += task.gpus
            target.note(new)
            self._made.running[new.serial] = new
        for share, promise in lane.promises.items():
            mine = [self._made.running.get(task.serial) for task in promise.own]
            target.promises[share].own = deque((t for t in mine if t is not None), maxlen=1_024)

    def owed(self, lane: Lane) -> None:
        """Nodes that are being emptied for somebody."""
        target = self._lanes[lane.index]
        for keep in lane.keeps:
            if keep.promise is None or keep.task is None:
                continue
            task = self._task(keep.task)
            new = Keep(target, keep.nodes, keep.slots, keep.until_ms)
            new.task, new.promise = task, target.promises[keep.promise.share]
            new.promise.used += task.gpus
            task.keep = new
            target.keep(new)

    def _task(self, task: Task) -> Task:
        new = Task(task.serial, self._line(task.line), task.source)
        new.priority = task.priority
        new.expected_ms, new.bound_ms, new.limited = task.expected_ms, task.bound_ms, task.limited
        new.since_ms, new.recalls, new.spared = task.since_ms, task.recalls, task.spared
        new.late = task.late
        new.slots, new.gpus = task.slots, task.gpus
        return new

    def _line(self, line: Line) -> Line:
        key = (line.demand.serial, line.share, id(line))
        new = self._lines.get(key)
        if new is None:
            demand = self._demand(line.demand)
            new = self._lines[key] = demand.line(
                line.share, line.gpus, line.source, self._promises(line)
            )
        return new

    def _demand(self, demand: Demand) -> Demand:
        new = self._demands.get(demand.serial)
        if new is None:
            offers = tuple(
                Offer(self._lanes[offer.lane.index], demand.count, offer.slots, offer.cost)
                for offer in demand.offers
            )
            new = self._demands[demand.serial] = Demand(demand.serial, demand.count, offers)
            new.borrows = demand.borrows
        return new

    def _promises(self, line: Line) -> Promises:
        key = id(line.promises)
        if key not in self._covering:
            self._covering[key] = {
                index: tuple(self._lanes[index].promises[one.share] for one in its)
                for index, its in line.promises.items()
            }
        return self._covering[key]

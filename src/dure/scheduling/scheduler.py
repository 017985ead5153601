"""The scheduler: events in, decisions out. What runs the nation and what rehearses it is this.

It keeps the state of one instant and is told what happens: a task is submitted, one has ended,
nodes come or go. `decide` then answers what follows from it. An event costs what it touches: the
lanes that were freed, and of each demand that wants them its head; never a walk over nodes or the
queue.

A decision, top-down:

1. *owed*: what nodes were being emptied for starts there.
2. *promised*: tasks within their share's promise start; where no GPUs are free for a short one, it
   borrows; for any other, borrowers are called back (`recall`).
3. *lent*: everything else borrows what idles, in order of its turn (`waiting`).
4. *reserved*: the first blocked demand of a lane has nodes kept for its head (`shadow`); later
   tasks use those only if they end in time (EASY).

Pure: no clock, no I/O, no randomness; equal events give equal decisions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Protocol

from dure.scheduling.fairshare import FairShare
from dure.scheduling.lane import Keep, Lane, Nodes
from dure.scheduling.promise import Promise
from dure.scheduling.recall import victims
from dure.scheduling.shadow import Shadow, shadow
from dure.scheduling.tuning import Tuning
from dure.scheduling.waiting import LATE, Demand, Offer, Task, Turn

SHADOWS_MAX = 4
"""Lanes in which a blocked head looks for the soonest start."""


NOBODYS = (1 << 62,)
"""The rank of what stands on nobody's share: after all that do."""


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


class Scheduler:
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
        self._now_ms = 0
        self._fresh: list[Task] = []
        self._freed: dict[int, Lane] = {}
        self._grown: dict[tuple[int, str], Promise] = {}
        self._active: dict[int, Demand] = {}
        self._touched: dict[int, Demand] = {}
        self._alarms: list[tuple[int, int, Task]] = []
        self._wakes: list[int] = []
        self._ranks: dict[str, tuple[int, ...]] = {}
        self._vain: dict[tuple[int, int], int] = {}
        """Of this decision: how many nodes of a lane, with so many slots each, no recall frees."""
        self._epoch = 0
        self._bound_ms = tuning.wait_bound_s * 1_000
        self._patience_ms = tuning.patience_s * 1_000
        self._notice_ms = tuning.recall_s * 1_000
        self._min_runtime_ms = tuning.min_runtime_s * 1_000
        self._period_ms = tuning.rank_period_s * 1_000
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
            task.line.remove(task)
            task.line.demand.place(task.line, self._rank(task.line.share))
            demand = task.line.demand
            if demand.keep is not None and demand.keep.task is task:
                self._unreserve(demand.keep)
        else:
            self._fresh.remove(task)

    def ended(self, task: Task, now_ms: int) -> None:
        """A task that ran runs no more, whatever the reason; its nodes are free."""
        lane, promise = task.lane, task.promise
        assert lane is not None
        lane.take(task.nodes, -task.slots)
        lane.running -= 1
        task.lane = None
        if promise is not None:
            promise.used -= task.gpus
            self._grow(promise)
            task.promise = None
        else:
            lane.borrowing -= 1
            lane.lent -= task.gpus
        self._freed[lane.index] = lane
        if self.fair is not None and task.line.share:
            self.fair.ends(task.line.share, lane.weight_milli * task.gpus, now_ms)

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
        self._grow(promise)
        self._freed[promise.lane.index] = promise.lane

    def unreserve(self) -> None:
        """Keep nodes for no blocked head any more: what was reckoned with has moved."""
        for lane in self.lanes:
            if lane.head is not None:
                self._unreserve(lane.head)

    def readmit(self) -> None:
        """Put back what the gate held up."""
        for task in self.held_up:
            self.submit(task)
        self.held_up = []

    # ---- what follows from it --------------------------------------------------------------------

    def decide(self, now_ms: int) -> None:
        """Decide all that follows from what happened; `starts` and `recalls` then say what."""
        self._now_ms = now_ms
        self.starts = []
        self.recalls = []
        self._vain = {}
        if self.fair is not None and now_ms // self._period_ms != self._epoch:
            self._epoch = now_ms // self._period_ms
            self._ranks = {}
        self._ring(now_ms)
        for lane in self._freed.values():
            if lane.keeps:
                self._start_owed(lane)
        if not self._active and len(self._fresh) <= 1 and not self._fresh_blocked():
            return
        for task in self._fresh:
            if now_ms - task.since_ms >= self._bound_ms:  # it ran before and was cut short
                task.late = LATE
            task.line.push(task)
            self._show(task)
        while self._touch():  # again, where what was kept for a head came free meanwhile
            self._serve_promises()
            self._lend()
            self._touched = {}
            for task in self._fresh:
                if task.place is not None:
                    self._remember(task)
            self._fresh = []

    def _fresh_blocked(self) -> bool:
        """With nobody waiting, most tasks start as they come: whether a lone new one does not."""
        self._freed = {}
        self._grown = {}
        if self._fresh:
            task = self._fresh[0]
            demand = task.line.demand
            if self.gate is not None and self.gate.holds_up(task):
                return True
            redeemed = demand.promised and self._redeem(demand, task)
            if not redeemed and not self._borrow(demand, task):
                return True
            self._fresh = []
        return False

    @property
    def wake_ms(self) -> int | None:
        """When to decide again even if nothing happens: somebody's wait or a borrower's minimum
        runtime is over by then.
        """
        alarms, wakes = self._alarms, self._wakes
        if alarms and wakes:
            return min(alarms[0][0], wakes[0])
        if alarms:
            return alarms[0][0]
        return wakes[0] if wakes else None

    @property
    def active(self) -> bool:
        """Whether anything waits."""
        return bool(self._active)

    def waiting(self) -> list[Demand]:
        """The demands with something waiting, in order of age."""
        return [self._active[serial] for serial in sorted(self._active)]

    # ---- the steps -------------------------------------------------------------------------------

    def _ring(self, now_ms: int) -> None:
        """Who has waited past a bound goes to the front; fair share is looked at anew."""
        alarms = self._alarms
        while alarms and alarms[0][0] <= now_ms:
            _, _, task = heappop(alarms)
            if task.place is None:
                continue
            if now_ms - task.since_ms >= self._bound_ms and task.late != LATE:
                task.late = LATE
                task.line.push(task)
            self._show(task)
            self._set_alarm(task)
        while self._wakes and self._wakes[0] <= now_ms:
            heappop(self._wakes)
            for serial, demand in self._active.items():
                if demand.promised:
                    self._touched[serial] = demand

    def _start_owed(self, lane: Lane) -> None:
        for keep in [keep for keep in lane.keeps if keep.promise is not None]:
            if lane.is_ready(keep):
                task = keep.task
                assert task is not None
                lane.let_go(keep)
                task.keep = None
                self._run(task, lane, keep.nodes, keep.promise)

    def _show(self, task: Task) -> None:
        """A task is new in its line, or stands elsewhere in it."""
        line = task.line
        line.demand.place(line, self._rank(line.share))
        self._touched[line.demand.serial] = line.demand

    def _touch(self) -> bool:
        """Find the demands that what happened may have made room for; whether there are any."""
        touched = self._touched
        for lane in self._freed.values():
            rooms: dict[int, int] = {}
            for serial, demand in lane.demands.items():
                offer = demand.by_lane[lane.index]
                room = rooms.get(offer.slots)
                if room is None:
                    room = rooms[offer.slots] = lane.most(offer.slots)
                if room < demand.count and not (
                    room + lane.lent >= demand.count and offer.may_call_back
                ):
                    continue
                touched[serial] = demand
        for promise in self._grown.values():
            if promise.gpus > promise.used:
                touched.update(promise.demands)
        self._freed = {}
        self._grown = {}
        return bool(touched)

    def _serve_promises(self) -> None:
        turns: list[tuple[Turn, int, Demand]] = []
        for serial, demand in self._touched.items():
            if demand.promised and (turn := self._turn(demand)) is not None:
                turns.append((turn, serial, demand))
        heapify(turns)
        while turns:
            _, serial, demand = heappop(turns)
            task = self._head(demand)
            if task is not None and self._redeem(demand, task):
                turn = self._turn(demand)
                if turn is not None:
                    heappush(turns, (turn, serial, demand))

    def _redeem(self, demand: Demand, task: Task) -> bool:
        """Start a task under a promise, now or when borrowers have gone."""
        open_ = [
            (offer, promise)
            for offer in demand.promised
            for promise in offer.promises
            if promise.gpus - promise.used >= offer.gpus
            and (self.gate is None or self.gate.admits(task, offer))
        ]
        if not open_:
            return False
        for offer, promise in open_:
            if nodes := self._fit(demand, offer, task):
                promise.used += offer.gpus
                self._start(demand, offer, task, nodes, promise)
                return True
        if task.expected_ms <= self._short_ms and self._borrow(demand, task):
            return True
        return any(self._call_back(offer, promise, task) for offer, promise in open_)

    def _call_back(self, offer: Offer, promise: Promise, task: Task) -> bool:
        """Give notice to borrowers so that the task can start under its promise."""
        lane, now_ms = offer.lane, self._now_ms
        count, vain = task.line.demand.count, (lane.index, offer.slots)
        if count >= self._vain.get(vain, count + 1):
            return False
        found = victims(lane, count, offer.slots, now_ms, self.tuning)
        if found.ripe_ms is not None:
            heappush(self._wakes, found.ripe_ms)
        if not found.nodes:
            self._vain[vain] = count
            return False
        if (head := lane.head) is not None and head.nodes & found.nodes:
            self._unreserve(head)  # a promise comes first: its turn comes again, elsewhere
        promise.used += offer.gpus
        keep = Keep(lane, found.nodes, offer.slots, now_ms + self._notice_ms)
        if lane.is_ready(keep):
            self._start(task.line.demand, offer, task, found.nodes, promise)
            return True
        self._leave(task, offer)
        task.slots, task.gpus = offer.slots, offer.gpus
        keep.task, keep.promise, task.keep = task, promise, keep
        lane.keep(keep)
        for victim in found.tasks:
            victim.notice_ms = now_ms
            victim.recalls += 1
            victim.spared = int(victim.recalls >= self.tuning.recalls_max)
            lane.note(victim)
            self.recalls.append((victim, task))
        return True

    def _lend(self) -> None:
        turns: list[tuple[Turn, int, Demand]] = []
        for serial, demand in self._touched.items():
            if (turn := self._turn(demand)) is not None:
                turns.append((turn, serial, demand))
        heapify(turns)
        while turns:
            turn, serial, demand = heappop(turns)
            task = self._head(demand)
            if task is None:
                continue
            if self._borrow(demand, task):
                following = self._turn(demand)
                if following is not None:
                    heappush(turns, (following, serial, demand))
            else:
                self._reserve(demand, task, turn)

    def _borrow(self, demand: Demand, task: Task) -> bool:
        """Start a task on GPUs that idle: the cheapest, then where a recall is least likely, then
        where it fits most tightly.
        """
        best: tuple[int, int, int, int] | None = None
        chosen: tuple[Offer, Nodes] | None = None
        for offer in demand.offers:
            lane = offer.lane
            if lane.idle < offer.gpus:
                continue
            risk = lane.risk
            if best is not None and (offer.cost, risk) > best[:2]:
                continue
            if not lane.lends(offer.gpus, demand.borrows):
                continue
            if self.gate is not None and not self.gate.admits(task, offer):
                continue
            if nodes := self._fit(demand, offer, task):
                rank = (offer.cost, risk, lane.leftover(nodes, offer.slots), lane.index)
                if best is None or rank < best:
                    best, chosen = rank, (offer, nodes)
        if chosen is None:
            return False
        self._start(demand, chosen[0], task, chosen[1], None)
        return True

    def _reserve(self, demand: Demand, task: Task, turn: Turn) -> None:
        """Keep nodes for the head of a blocked demand where it can start soonest."""
        if demand.keep is not None:
            if demand.keep.until_ms > self._now_ms:
                demand.keep.task = task
                return
            self._release(demand.keep)  # what was to end by then has not: look again
        if not task.limited and self._now_ms - task.since_ms < self._patience_ms:
            return
        found = min(
            islice(self._sights(demand, task, turn), SHADOWS_MAX),
            key=lambda one: (one[1].starts_ms, one[0].lane.index),
            default=None,
        )
        if found is None:
            return
        offer, sight = found
        lane = offer.lane
        if lane.head is not None:
            self._release(lane.head)
        keep = Keep(lane, sight.nodes & ~lane.kept, offer.slots, sight.starts_ms)
        keep.task, keep.demand = task, demand
        demand.keep = lane.head = keep
        lane.keep(keep)
        heappush(self._alarms, (max(sight.starts_ms, self._now_ms + 1), task.serial, task))
        if self.gate is not None:
            self.gate.reserves(task, offer)

    def _sights(self, demand: Demand, task: Task, turn: Turn) -> Iterator[tuple[Offer, Shadow]]:
        """When a blocked head could start, where it is promised something, or else anywhere, and
        where no head that goes before it has nodes kept.
        """
        for offer in demand.promised or demand.offers:
            lane = offer.lane
            if lane.head is not None and not self._goes_before(turn, lane.head):
                continue
            if self.gate is not None and not self.gate.admits(task, offer):
                continue
            sight = shadow(lane, demand.count, offer.slots, self._now_ms)
            if sight is None or (lane.head is None and sight.starts_ms <= self._now_ms):
                continue  # the nodes are not there, or it is not nodes that it waits for
            yield offer, sight

    # ---- the means -------------------------------------------------------------------------------

    def _head(self, demand: Demand) -> Task | None:
        """The next task of a demand that nothing but room stands in the way of."""
        while (line := demand.first(self._rank)) is not None:
            task = line.head
            assert task is not None
            if self.gate is None or not self.gate.holds_up(task):
                return task
            line.remove(task)
            self.held_up.append(task)
            demand.place(line, self._rank(line.share))
        self._idle(demand)
        return None

    def _turn(self, demand: Demand) -> Turn | None:
        if demand.epoch != self._epoch:
            demand.epoch = self._epoch
            demand.reorder(self._rank)
        line = demand.first(self._rank)
        if line is None:
            self._idle(demand)
            return None
        return line.turn

    def _idle(self, demand: Demand) -> None:
        """Nothing of a demand waits any more."""
        if demand.keep is not None:
            self._release(demand.keep)
        if self._active.pop(demand.serial, None) is not None:
            for offer in demand.offers:
                del offer.lane.demands[demand.serial]
                for promise in offer.promises:
                    del promise.demands[demand.serial]

    def _remember(self, task: Task) -> None:
        """A task stays waiting: its demand is looked at when something comes free."""
        demand = task.line.demand
        self._set_alarm(task)
        if demand.serial not in self._active:
            self._active[demand.serial] = demand
            for offer in demand.offers:
                offer.lane.demands[demand.serial] = demand
                for promise in offer.promises:
                    promise.demands[demand.serial] = demand

    def _set_alarm(self, task: Task) -> None:
        waited = self._now_ms - task.since_ms
        ahead = [ms for ms in (self._patience_ms, self._bound_ms) if ms > waited]
        if ahead:
            heappush(self._alarms, (task.since_ms + min(ahead), task.serial, task))

    def _fit(self, demand: Demand, offer: Offer, task: Task) -> Nodes:
        lane, keep = offer.lane, demand.keep
        if keep is None or keep.lane is not lane:
            return lane.fit(demand.count, offer.slots, self._now_ms + task.bound_ms)
        if lane.is_ready(keep):
            return keep.nodes
        return lane.fit(demand.count, offer.slots, keep.until_ms)  # some of them, and others

    def _start(
        self, demand: Demand, offer: Offer, task: Task, nodes: Nodes, promise: Promise | None
    ) -> None:
        self._leave(task, offer)
        if demand.keep is not None:
            self._release(demand.keep)
        task.slots, task.gpus = offer.slots, offer.gpus
        if promise is None:
            for own in offer.promises:
                own.own.append(task)
            if self._is_waited_for(offer.lane):
                heappush(self._wakes, self._now_ms + self._min_runtime_ms)
        self._run(task, offer.lane, nodes, promise)

    def _is_waited_for(self, lane: Lane) -> bool:
        """Whether somebody who is promised GPUs of a lane could use those of one more borrower."""
        for demands in (lane.demands, self._touched):
            for demand in demands.values():
                offer = demand.by_lane.get(lane.index)
                if offer is not None and offer.may_call_back:
                    return True
        return False

    def _leave(self, task: Task, offer: Offer) -> None:
        """A task leaves its line, for good news."""
        if task.place is not None:
            line = task.line
            line.remove(task)
            line.demand.place(line, self._rank(line.share))
        if self.gate is not None:
            self.gate.starts(task, offer)

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
            if not self.tuning.min_runtime_s:
                self._vain = {}
        lane.note(task)
        self.starts.append(task)
        if self.fair is not None and task.line.share:
            self.fair.starts(task.line.share, lane.weight_milli * task.gpus, now_ms)
            self._ranks.pop(task.line.share, None)

    def _release(self, keep: Keep) -> None:
        """Nodes are kept no longer."""
        lane, task = keep.lane, keep.task
        lane.let_go(keep)
        if keep.promise is not None and task is not None:
            keep.promise.used -= task.gpus
            self._grow(keep.promise)
            self._vain = {}
            task.keep = None
        if keep.demand is not None:
            keep.demand.keep = None
        self._freed[lane.index] = lane

    def _unreserve(self, head: Keep) -> None:
        """Nodes are reserved for a demand no longer; it looks for others."""
        assert head.demand is not None
        self._touched[head.demand.serial] = head.demand
        self._release(head)

    def _grow(self, promise: Promise) -> None:
        """A promise has room again: what its share borrows right there moves under it."""
        own, lane = promise.own, promise.lane
        while own and promise.gpus > promise.used:
            task = own[0]
            if task.lane is lane and task.promise is None and task.notice_ms is None:
                if task.gpus > promise.gpus - promise.used:
                    break
                task.promise = promise
                promise.used += task.gpus
                lane.borrowing -= 1
                lane.lent -= task.gpus
            own.popleft()
        self._grown[lane.index, promise.share] = promise

    def _goes_before(self, turn: Turn, head: Keep) -> bool:
        assert head.demand is not None
        other = self._turn(head.demand)
        return other is None or turn < other

    def _rank(self, share: str) -> tuple[int, ...]:
        if self.fair is None:
            return ()
        if not share:
            return NOBODYS
        rank = self._ranks.get(share)
        if rank is None:
            rank = self._ranks[share] = self.fair.rank(share, self._now_ms)
        return rank

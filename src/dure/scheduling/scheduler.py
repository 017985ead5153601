"""The scheduler: events in, decisions out. What runs the nation and what rehearses it is this.

It keeps the state of one instant (`floor`) and is told what happens: a task is submitted, one has
ended, nodes come or go. `decide` then answers what follows from it. An event costs what it touches:
the lanes that were freed, and of each demand that wants them its head; never a walk over nodes or
the queue.

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

from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import TypeVar

from dure.scheduling.floor import UNBOUNDED, Floor
from dure.scheduling.lane import Keep, Lane, Nodes
from dure.scheduling.promise import Promise
from dure.scheduling.recall import victims
from dure.scheduling.shadow import Shadow, shadow
from dure.scheduling.waiting import Claim, Demand, Offer, Task, Turn

SHADOWS_MAX = 4
"""Lanes in which a blocked head looks for the soonest start."""

Whose = TypeVar("Whose", Demand, Claim)


class Scheduler(Floor):
    """Decides what follows from what has happened."""

    # ---- what follows from it --------------------------------------------------------------------

    def decide(self, now_ms: int, most: int = UNBOUNDED) -> None:
        """Decide all that follows from what happened; `starts` and `recalls` then say what. After
        `most` of them it may stop: then it is `unfinished`, and wants to be asked again at once.
        """
        self._now_ms = now_ms
        self._most = most
        self.starts = []
        self.recalls = []
        if not self.unfinished:
            self._stirred = {}
        self.unfinished = False
        self._queue.moves_to(now_ms)
        self._ring()
        for lane in self._freed.values():
            if lane.keeps:
                self._start_owed(lane)
        if not self._queue.active and len(self._fresh) <= 1 and not self._fresh_blocked():
            return
        fresh, self._fresh = self._fresh, []
        for task in fresh:
            self._queue.enter(task)
            self._show(task)
        while not self.unfinished and self._touch():  # again: what was kept may have come free
            self._serve_promises()
            self._lend()
        for task in fresh:
            if task.place is not None:
                self._queue.watch(task)

    def _fresh_blocked(self) -> bool:
        """With nobody waiting, most tasks start as they come: whether a lone new one does not."""
        self._freed = {}
        self._touched = {}
        self._vacant = {}
        if self._fresh:
            task = self._fresh[0]
            if self.gate is not None and self.gate.holds_up(task):
                return True
            if not self._redeem(task) and not self._borrow(task):
                return True
            self._fresh = []
        return False

    def is_untried(self, demand: Demand) -> bool:
        """Whether the latest decision stopped before it came to a demand."""
        return self.unfinished and demand.serial in self._touched

    # ---- the steps -------------------------------------------------------------------------------

    def _ring(self) -> None:
        """Look again at who has waited past a bound, and at lanes with a borrower newly ripe."""
        while (task := self._queue.ring()) is not None:
            self._show(task)
        while self._wakes and self._wakes[0][0] <= self._now_ms:
            lane = self.lanes[heappop(self._wakes)[1]]
            lane.armed_ms = None
            self._freed[lane.index] = lane

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
        demand = task.line.demand
        demand.blocked = None
        self._touched[demand.serial] = demand
        self._claiming.update(dict.fromkeys(task.line.claims))

    def _touch(self) -> bool:
        """Find the demands and claims that what happened may have made room for, and whether there
        is anything to decide.
        """
        for lane in self._freed.values():
            rooms: dict[int, int] = {}
            for serial, demand in lane.demands.items():
                slots = demand.by_lane[lane.index].slots
                room = rooms.get(slots)
                if room is None:
                    room = rooms[slots] = lane.most(slots)
                if room >= demand.count:
                    self._touched[serial] = demand
            for promise in lane.promises.values():
                self._press(promise)
        for lane in self._vacant.values():
            self._touched.update(lane.demands)
        self._stirred.update(self._freed)
        self._freed = {}
        return bool(self._touched or self._claiming)

    def _press(self, promise: Promise) -> None:
        """Find the claims on a promise that could be served, with recalls if need be."""
        room = promise.gpus - promise.used
        if room <= 0 or not promise.claims:
            return
        lane = promise.lane
        lane.ripen(self._now_ms - self._min_runtime_ms)
        for claim in promise.claims:
            offer = claim.demand.by_lane[lane.index]
            if room < offer.gpus:
                continue
            if lane.within_reach(offer.slots) >= claim.demand.count:
                self._claiming[claim] = None
            else:
                self._arm(lane)

    def _serve_promises(self) -> None:
        turns = self._in_turn(self._claiming)
        self._claiming = {}
        while turns:
            if self._stops():
                self._claiming = {claim: None for _, _, claim in turns}
                return
            _, nth, claim = heappop(turns)
            task = self._head(claim)
            if task is not None and self._redeem(task):
                self._touched[claim.demand.serial] = claim.demand
                if (turn := self._queue.turn(claim)) is not None:
                    heappush(turns, (turn, nth, claim))

    def _stops(self) -> bool:
        """Whether as much is decided as was asked for."""
        self.unfinished = len(self.starts) + len(self.recalls) >= self._most
        return self.unfinished

    def _in_turn(self, all_: Iterable[Whose]) -> list[tuple[Turn, int, Whose]]:
        """Demands or claims as a heap, the one on top whose turn it is."""
        turns = [
            (turn, nth, one)
            for nth, one in enumerate(all_)
            if (turn := self._turn(one)) is not None
        ]
        heapify(turns)
        return turns

    def _redeem(self, task: Task) -> bool:
        """Start a task under a promise, now or when borrowers have gone."""
        full: list[tuple[Offer, Promise]] = []
        for offer, promise in task.line.open():
            if self.gate is not None and not self.gate.admits(task, offer):
                continue
            if nodes := self._fit(offer, task):
                promise.used += offer.gpus
                self._start(offer, task, nodes, promise)
                return True
            full.append((offer, promise))
        if not full:
            return False
        if task.expected_ms <= self._short_ms and self._borrow(task):
            return True
        return any(self._call_back(offer, promise, task) for offer, promise in full)

    def _call_back(self, offer: Offer, promise: Promise, task: Task) -> bool:
        """Give notice to borrowers so that the task can start under its promise."""
        lane, now_ms = offer.lane, self._now_ms
        count = task.line.demand.count
        lane.ripen(now_ms - self._min_runtime_ms)
        if lane.within_reach(offer.slots) < count:
            self._arm(lane)
            return False
        found = victims(lane, count, offer.slots, now_ms, self.tuning)
        if (head := lane.head) is not None and head.nodes & found.nodes:
            self._release(head)  # a promise comes first: its turn comes again, elsewhere
        promise.used += offer.gpus
        keep = Keep(lane, found.nodes, offer.slots, now_ms + self._notice_ms)
        if lane.is_ready(keep):
            self._start(offer, task, found.nodes, promise)
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

    def _arm(self, lane: Lane) -> None:
        """Look at a lane again when its next borrower has had its minimum runtime."""
        if lane.unripe:
            ripe_ms = lane.unripe[0][0] + self._min_runtime_ms
            if lane.armed_ms is None or ripe_ms < lane.armed_ms:
                lane.armed_ms = ripe_ms
                heappush(self._wakes, (ripe_ms, lane.index))

    def _lend(self) -> None:
        turns = self._in_turn(self._touched.values())
        self._touched = {}
        while turns:
            if self._stops():
                self._touched = {demand.serial: demand for _, _, demand in turns}
                return
            turn, nth, demand = heappop(turns)
            task = self._head(demand)
            if task is None:
                continue
            if self._borrow(task):
                following = self._turn(demand)
                if following is not None:
                    heappush(turns, (following, nth, demand))
            else:
                if task is not demand.blocked or self._may_reserve(demand):
                    self._reserve(demand, task, turn)
                demand.blocked = task
        self._vacant = {}

    def _may_reserve(self, demand: Demand) -> bool:
        """Whether a head that could not have nodes kept for it may now."""
        if demand.keep is not None:
            return True
        vacant, by_lane = self._vacant, demand.by_lane
        return any(index in by_lane and vacant[index].head is None for index in vacant)

    def _borrow(self, task: Task) -> bool:
        """Start a task on GPUs that idle: the cheapest, then where a recall is least likely, then
        where it fits most tightly.
        """
        demand = task.line.demand
        best: tuple[int, int, int, int] | None = None
        chosen: tuple[Offer, Nodes] | None = None
        for offer in self._worth_a_look(demand, task):
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
            if nodes := self._fit(offer, task):
                rank = (offer.cost, risk, lane.leftover(nodes, offer.slots), lane.index)
                if best is None or rank < best:
                    best, chosen = rank, (offer, nodes)
        if chosen is None:
            return False
        self._start(chosen[0], task, chosen[1], None)
        return True

    def _worth_a_look(self, demand: Demand, task: Task) -> Sequence[Offer]:
        """Where a head may find room: if it has found none before, only where something changed."""
        if task is not demand.blocked or self.gate is not None:
            return demand.offers
        by_lane = demand.by_lane
        return [by_lane[index] for index in self._stirred if index in by_lane]

    def _reserve(self, demand: Demand, task: Task, turn: Turn) -> None:
        """Keep nodes for the head of a blocked demand where it can start soonest."""
        if (keep := demand.keep) is not None:
            if keep.until_ms > self._now_ms and self._takes_over(keep, task):
                return
            self._release(keep)  # what was to end by then has not: look again
        if not task.limited and self._now_ms - task.since_ms < self._queue.patience_ms:
            return
        found = self._soonest(demand, task, turn)
        if found is None:
            return
        offer, sight = found
        lane = offer.lane
        if (beaten := lane.head) is not None:
            self._release(beaten)
        keep = Keep(lane, sight.nodes & ~lane.kept, offer.slots, sight.starts_ms)
        keep.task, keep.demand = task, demand
        demand.keep = lane.head = keep
        lane.keep(keep)
        self._queue.remind(task, sight.starts_ms)
        if self.gate is not None:
            self.gate.reserves(task, offer)

    def _takes_over(self, keep: Keep, task: Task) -> bool:
        """The head that nodes were kept for has started elsewhere: the next one has them."""
        if keep.task is not task:
            offer = task.line.demand.by_lane[keep.lane.index]
            if self.gate is not None:
                if not self.gate.admits(task, offer):
                    return False
                self.gate.reserves(task, offer)
            keep.task = task
            self._queue.remind(task, keep.until_ms)
        return True

    def _soonest(self, demand: Demand, task: Task, turn: Turn) -> tuple[Offer, Shadow] | None:
        """Where a blocked head can start soonest, and when: among lanes where it is promised
        something, or else any, and where no head that goes before it has nodes kept.
        """
        best: tuple[Offer, Shadow] | None = None
        for offer in islice(self._in_sight(demand, task, turn), SHADOWS_MAX):
            lane = offer.lane
            by_ms = None if best is None else best[1].starts_ms
            sight = shadow(lane, demand.count, offer.slots, self._now_ms, by_ms)
            if sight is None:
                continue
            if sight.starts_ms <= self._now_ms and (
                lane.head is None or not lane.lends(offer.gpus, demand.borrows)
            ):
                continue  # it is not nodes that it waits for
            if best is None or (sight.starts_ms, lane.index) < (by_ms, best[0].lane.index):
                best = offer, sight
        return best

    def _in_sight(self, demand: Demand, task: Task, turn: Turn) -> Iterator[Offer]:
        """Where nodes may be kept for a blocked head."""
        for offer in task.line.promised or demand.offers:
            lane = offer.lane
            if lane.head is not None and not self._goes_before(turn, lane.head):
                continue
            if lane.unowed.bit_count() < demand.count:
                continue
            if self.gate is None or self.gate.admits(task, offer):
                yield offer

    # ---- the means -------------------------------------------------------------------------------

    def _head(self, whose: Demand | Claim) -> Task | None:
        """The next task of a demand or claim that nothing but room stands in the way of."""
        while (line := self._queue.first(whose.turns)) is not None:
            task = line.head
            assert task is not None
            if self.gate is None or not self.gate.holds_up(task):
                return task
            self._queue.leave(task)
            self.held_up.append(task)
        self._turn(whose)
        return None

    def _turn(self, whose: Demand | Claim) -> Turn | None:
        """How soon it has its turn; None, and nothing kept for it any more, if nothing waits."""
        turn = self._queue.turn(whose)
        if turn is None and isinstance(whose, Demand) and whose.keep is not None:
            self._release(whose.keep)
        return turn

    def _fit(self, offer: Offer, task: Task) -> Nodes:
        lane, demand = offer.lane, task.line.demand
        keep = demand.keep
        if keep is None or keep.lane is not lane:
            return lane.fit(demand.count, offer.slots, self._now_ms + task.bound_ms)
        if lane.is_ready(keep):
            return keep.nodes
        return lane.fit(demand.count, offer.slots, keep.until_ms)  # some of them, and others

    def _start(self, offer: Offer, task: Task, nodes: Nodes, promise: Promise | None) -> None:
        demand = task.line.demand
        self._leave(task, offer)
        if (keep := demand.keep) is not None and keep.nodes & nodes and keep.lane is offer.lane:
            self._release(keep)
        task.slots, task.gpus = offer.slots, offer.gpus
        self._run(task, offer.lane, nodes, promise)
        if promise is None:
            for own in task.line.promises.get(offer.lane.index, ()):
                own.own.append(task)
            if any(own.claims and own.room > 0 for own in offer.lane.promises.values()):
                self._arm(offer.lane)

    def _leave(self, task: Task, offer: Offer) -> None:
        """A task leaves its line, for good news."""
        if task.place is not None:
            self._queue.leave(task)
        task.line.demand.blocked = None
        if self.gate is not None:
            self.gate.starts(task, offer)

    def _goes_before(self, turn: Turn, head: Keep) -> bool:
        assert head.demand is not None
        other = self._turn(head.demand)
        return other is None or turn < other

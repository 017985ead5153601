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

from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Protocol, TypeVar

from dure.scheduling.fairshare import FairShare
from dure.scheduling.lane import Keep, Lane, Nodes
from dure.scheduling.promise import Promise
from dure.scheduling.queue import Queue
from dure.scheduling.recall import victims
from dure.scheduling.shadow import Shadow, shadow
from dure.scheduling.tuning import Tuning
from dure.scheduling.waiting import Claim, Demand, Offer, Task, Turn

SHADOWS_MAX = 4
"""Lanes in which a blocked head looks for the soonest start."""

UNBOUNDED = 1 << 62
"""As many decisions at once as there are to make."""

Whose = TypeVar("Whose", Demand, Claim)


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
        self.unfinished = False
        """Whether the latest decision stopped at `most`: the next goes on where it stopped."""
        self._queue = Queue(tuning, fair)
        self._now_ms = 0
        self._most = UNBOUNDED
        self._fresh: list[Task] = []
        self._freed: dict[int, Lane] = {}
        self._stirred: dict[int, Lane] = {}
        """All that this decision found freed."""
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

    def is_untried(self, demand: Demand) -> bool:
        """Whether the latest decision stopped before it came to a demand."""
        return self.unfinished and demand.serial in self._touched

    def waiting(self) -> list[Demand]:
        """The demands with something waiting, in order of age."""
        return [demand for _, demand in sorted(self._queue.active.items())]

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

    def _goes_before(self, turn: Turn, head: Keep) -> bool:
        assert head.demand is not None
        other = self._turn(head.demand)
        return other is None or turn < other

"""A scheduler, watched: the same events and decisions, and an exception at the first foul.

The referee keeps books of its own, from the events it is told and the decisions it sees, and takes
none of the scheduler's figures on trust. What it holds against them (DESIGN.md has the numbers):

- I1: every task submitted waits, is owed nodes, is held up by the gate or runs, until it has ended.
- I2: nothing that runs is started again.
- I7: starts are on nodes that are up, have room and are kept for nobody else; no share has more
  under its promise than it is promised; what it does not lend stays idle; who is promised GPUs and
  finds enough of them free, or under borrowers that may go, does not wait.
- I12: starts only where an offer of the task's demand is.
- Recalls are of borrowers past their minimum runtime, each once, and make the room they are for.
- In a line nobody is passed over; nobody delays a reservation (EASY); nothing idles that a waiting
  task may have.

It costs as much as all that runs and waits, every `every` decisions: for tests and for rehearsals
of modest size, not for the nation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dure.scheduling.floor import UNBOUNDED
from dure.scheduling.lane import Keep, Lane, Nodes, ordinals
from dure.scheduling.promise import Promise
from dure.scheduling.scheduler import Scheduler
from dure.scheduling.waiting import IN_TIME, LATE, Demand, Line, Offer, Task


class FoulError(AssertionError):
    """The scheduler broke a rule; the sentence says which and how."""


@dataclass(slots=True)
class _Run:
    task: Task
    nodes: Nodes
    slots: int
    gpus: int
    promise: Promise | None
    started_ms: int
    ends_ms: int
    notice_ms: int | None = None


@dataclass(slots=True)
class _Pool:
    """The referee's own book of a lane."""

    lane: Lane
    up: Nodes
    promised: dict[str, int]
    runs: dict[int, _Run] = field(default_factory=dict)
    owed: dict[int, Keep] = field(default_factory=dict)
    """Nodes being emptied, by the serial of the task that they are for."""
    head: Keep | None = None
    head_nodes: Nodes = 0

    def taken(self, node: int) -> int:
        return sum(run.slots for run in self.runs.values() if run.nodes >> node & 1)

    def free(self, node: int) -> int:
        return self.lane.slots - self.taken(node)

    def idle(self, nodes: Nodes) -> int:
        return sum(self.free(node) for node in ordinals(nodes & self.up))

    def used(self, share: str) -> int:
        """GPUs that run under a share's promise or are owed to it."""
        runs = (run.gpus for run in self.runs.values() if _holder(run) == share)
        owed = (k.nodes.bit_count() * k.slots for k in self.owed.values() if _holder(k) == share)
        return sum(runs) + sum(owed)

    def owed_nodes(self, but: int | None = None) -> Nodes:
        nodes = 0
        for serial, keep in self.owed.items():
            if serial != but:
                nodes |= keep.nodes
        return nodes


class Referee:
    """Takes the place of a scheduler that nothing has been submitted to yet.

    Every method is the scheduler's own; `decide` raises FoulError.
    """

    def __init__(self, scheduler: Scheduler, every: int = 1) -> None:
        self.scheduler = scheduler
        self.lanes = scheduler.lanes
        self.tuning = scheduler.tuning
        self.fair = scheduler.fair
        self.decisions = 0
        self._every = every
        self._now_ms = 0
        self._waiting: dict[int, Task] = {}
        self._pools = {
            lane.index: _Pool(lane, lane.up, {s: p.gpus for s, p in lane.promises.items()})
            for lane in scheduler.lanes
        }

    # ---- what happens ----------------------------------------------------------------------------

    def submit(self, task: Task) -> None:
        """See `Scheduler.submit`."""
        _hold(task.serial not in self._waiting, f"task {task.serial} waits already")
        self._waiting[task.serial] = task
        self.scheduler.submit(task)

    def withdraw(self, task: Task) -> None:
        """See `Scheduler.withdraw`."""
        if self._waiting.pop(task.serial, None) is None:
            for pool in self._pools.values():
                pool.owed.pop(task.serial, None)
        self.scheduler.withdraw(task)
        self._moves()

    def ended(self, task: Task, now_ms: int) -> None:
        """See `Scheduler.ended`."""
        assert task.lane is not None
        pool = self._pools[task.lane.index]
        _hold(task.serial in pool.runs, f"I2: task {task.serial} does not run in {_name(pool)}")
        del pool.runs[task.serial]
        self.scheduler.ended(task, now_ms)
        self._moves()

    def saved(self, task: Task, at_ms: int) -> None:
        """See `Scheduler.saved`."""
        self.scheduler.saved(task, at_ms)

    def nodes_changed(self, lane: Lane, up: Nodes) -> None:
        """See `Scheduler.nodes_changed`."""
        pool = self._pools[lane.index]
        pool.up = up
        for serial in [serial for serial, keep in pool.owed.items() if keep.nodes & ~up]:
            task = pool.owed.pop(serial).task
            assert task is not None
            self._waiting[serial] = task
        self.scheduler.nodes_changed(lane, up)
        self._moves()

    def promised(self, promise: Promise, gpus: int) -> None:
        """See `Scheduler.promised`."""
        self._pools[promise.lane.index].promised[promise.share] = gpus
        self.scheduler.promised(promise, gpus)
        self._moves()

    def readmit(self) -> None:
        """See `Scheduler.readmit`."""
        self.scheduler.readmit()

    @property
    def starts(self) -> list[Task]:
        """See `Scheduler`."""
        return self.scheduler.starts

    @property
    def recalls(self) -> list[tuple[Task, Task]]:
        """See `Scheduler`."""
        return self.scheduler.recalls

    @property
    def held_up(self) -> list[Task]:
        """See `Scheduler`."""
        return self.scheduler.held_up

    @property
    def wake_ms(self) -> int | None:
        """See `Scheduler.wake_ms`."""
        return self.scheduler.wake_ms

    @property
    def active(self) -> bool:
        """See `Scheduler.active`."""
        return self.scheduler.active

    # ---- what follows from it --------------------------------------------------------------------

    @property
    def unfinished(self) -> bool:
        """See `Scheduler`."""
        return self.scheduler.unfinished

    def decide(self, now_ms: int, most: int = UNBOUNDED) -> None:
        """See `Scheduler.decide`.

        Raises:
            FoulError: the decision breaks a rule, or leaves something undone.
        """
        self._now_ms = now_ms
        owed_before = {index: dict(pool.owed) for index, pool in self._pools.items()}
        self.scheduler.decide(now_ms, most)
        self._moves()
        for index, pool in self._pools.items():
            self._see_keeps(pool, owed_before[index])
        for task in self.starts:
            self._started(task, owed_before)
        for victim, beneficiary in self.recalls:
            self._recalled(victim, beneficiary)
        self.decisions += 1
        for pool in self._pools.values():
            self._see_head(pool)
        if self.decisions % self._every == 0:
            self._account()
            for pool in self._pools.values():
                self._figures(pool)
                self._owed_comes_free(pool)
            if not self.unfinished:
                self._nothing_undone()

    def _moves(self) -> None:
        """Borrowers may have come under their own share's promise; nothing else changes it."""
        for pool in self._pools.values():
            for run in pool.runs.values():
                promise = run.task.promise
                if promise is run.promise:
                    continue
                own = run.task.line.promises.get(pool.lane.index, ())
                name = f"task {run.task.serial}"
                _hold(run.promise is None, f"I7: {name} has lost its promise while it runs")
                _hold(promise in own, f"I7: {name} runs under a promise not its own")
                _hold(run.notice_ms is None, f"{name} was called back from under its own promise")
                assert promise is not None
                run.promise = promise
                self._within(pool, promise)

    def _within(self, pool: _Pool, promise: Promise) -> None:
        used, gpus = pool.used(promise.share), pool.promised[promise.share]
        _hold(used <= gpus, f"I7: {promise.share} has {used} GPUs of {gpus} in {_name(pool)}")

    def _see_keeps(self, pool: _Pool, before: dict[int, Keep]) -> None:
        """Which nodes are owed to whom now: an old debt stays until it is paid."""
        started = {task.serial for task in self.starts}
        now = {
            keep.task.serial: keep
            for keep in pool.lane.keeps
            if keep.promise is not None and keep.task is not None
        }
        for serial, keep in before.items():
            kept = serial in started or now.get(serial) is keep
            _hold(kept, f"I7: nodes that task {serial} was owed are kept for it no longer")
        for serial in now.keys() - before.keys():
            _hold(serial in self._waiting, f"I2: task {serial} is owed nodes and does not wait")
            del self._waiting[serial]
        pool.owed = now
        for serial in now.keys() - before.keys():
            keep = now[serial]
            assert keep.promise is not None
            self._within(pool, keep.promise)

    def _started(self, task: Task, owed_before: dict[int, dict[int, Keep]]) -> None:
        name, lane, serial = f"task {task.serial}", task.lane, task.serial
        assert lane is not None
        pool = self._pools[lane.index]
        _hold(not self._runs(serial), f"I2: {name} is started while it runs")
        owed = any(serial in before for before in owed_before.values())
        _hold(owed or serial in self._waiting, f"I1: {name} is started and did not wait")
        demand = task.line.demand
        offer = demand.by_lane.get(lane.index)
        _hold(offer is not None, f"I12: {name} is started in {_name(pool)}, where it may not run")
        assert offer is not None
        shape = (task.nodes.bit_count(), task.slots)
        _hold(shape == (demand.count, offer.slots), f"{name} is started on nodes x slots {shape}")
        _hold(not task.nodes & ~pool.up, f"I7: {name} is started on nodes that are down")
        for node in ordinals(task.nodes):
            _hold(pool.free(node) >= task.slots, f"I7: {name} finds no room on node {node}")
        self._respects_keeps(task, pool, owed_before[lane.index])
        if not owed:
            self._passes_over_nobody(task)
        self._waiting.pop(serial, None)
        if task.promise is None:
            self._borrows_fairly(task, pool, offer)
        else:
            own = task.line.promises.get(lane.index, ())
            _hold(task.promise in own, f"I7: {name} starts under another's promise")
        ends_ms = self._now_ms + task.bound_ms
        pool.runs[serial] = _Run(
            task, task.nodes, task.slots, task.gpus, task.promise, self._now_ms, ends_ms
        )
        if task.promise is not None:
            self._within(pool, task.promise)

    def _respects_keeps(self, task: Task, pool: _Pool, before: dict[int, Keep]) -> None:
        """Nodes owed to others stay theirs; those reserved for a head are left by its time."""
        for serial, keep in pool.owed.items():
            theirs = serial != task.serial and before.get(serial) is keep
            _hold(
                not (theirs and keep.nodes & task.nodes),
                f"I7: task {task.serial} is started on nodes owed to task {serial}",
            )
        head = pool.head
        if head is None or pool.lane.head is not head or not pool.head_nodes & task.nodes:
            return
        _hold(
            self._now_ms + task.bound_ms <= head.until_ms,
            f"task {task.serial} delays the reservation of demand {_demand(head).serial}",
        )

    def _passes_over_nobody(self, task: Task) -> None:
        ahead = self._place(task)
        for other in self._waiting.values():
            if other.line is task.line and other is not task and other not in self.held_up:
                _hold(
                    self._place(other) > ahead,
                    f"task {task.serial} passes over task {other.serial} of its own line",
                )

    def _place(self, task: Task) -> tuple[int, int, int, int]:
        """The order within a line: past the bound, priority, expected GPU time or age, age."""
        late = self._now_ms - task.since_ms >= self.tuning.wait_bound_s * 1_000
        cost = task.since_ms if late else task.expected_ms * task.line.gpus
        return (LATE if late else IN_TIME, -task.priority, cost, task.serial)

    def _borrows_fairly(self, task: Task, pool: _Pool, offer: Offer) -> None:
        lane, name = pool.lane, f"task {task.serial}"
        withheld = sum(
            max(0, gpus - pool.used(share))
            for share, gpus in pool.promised.items()
            if not lane.promises[share].lends
        )
        left = pool.idle(pool.up) - offer.gpus
        _hold(not withheld or left >= withheld, f"I7: {name} takes what a share does not lend")
        if not task.line.demand.borrows:
            lent = sum(run.gpus for run in pool.runs.values() if run.promise is None)
            nobodys = pool.up.bit_count() * lane.slots - sum(pool.promised.values())
            _hold(lent + offer.gpus <= nobodys, f"I7: {name} borrows, which its share may not")

    def _recalled(self, victim: Task, beneficiary: Task) -> None:
        name = f"task {victim.serial}"
        pool = self._pools[victim.lane.index] if victim.lane else None
        run = pool.runs.get(victim.serial) if pool else None
        _hold(run is not None, f"{name} is called back and does not run")
        assert run is not None
        assert pool is not None
        _hold(run.promise is None, f"I7: {name} is called back from under its promise")
        _hold(run.notice_ms is None, f"{name} is called back twice in one run")
        least_ms = self.tuning.min_runtime_s * 1_000
        _hold(self._now_ms - run.started_ms >= least_ms, f"{name} is called back too early")
        keep = pool.owed.get(beneficiary.serial)
        _hold(keep is not None, f"{name} is called back for task {beneficiary.serial} in vain")
        assert keep is not None
        _hold(bool(keep.nodes & run.nodes), f"{name} is called back from other nodes than needed")
        run.notice_ms = self._now_ms

    def _see_head(self, pool: _Pool) -> None:
        """A new reservation can be kept if all that runs on its nodes ends by its bound."""
        lane, head = pool.lane, pool.lane.head
        if head is None or head is pool.head:
            pool.head, pool.head_nodes = head, head.nodes if head else 0
            return
        demand = _demand(head)
        name = f"the reservation of demand {demand.serial}"
        _hold(not head.nodes & ~pool.up, f"{name} is of nodes that are down")
        _hold(head.nodes.bit_count() == demand.count, f"{name} is of too few nodes")
        for node in ordinals(head.nodes):
            gone = sum(
                run.slots
                for run in pool.runs.values()
                if run.nodes >> node & 1 and self._ends_ms(run) <= head.until_ms
            )
            _hold(pool.free(node) + gone >= head.slots, f"{name} cannot be kept on node {node}")
        pool.head, pool.head_nodes = head, head.nodes
        assert lane.head is head

    def _ends_ms(self, run: _Run) -> int:
        """What has outlived its bound is expected to run as long again."""
        if run.ends_ms > self._now_ms:
            return run.ends_ms
        return 2 * self._now_ms - run.started_ms

    # ---- the whole -------------------------------------------------------------------------------

    def _account(self) -> None:
        """I1, and that the scheduler sees the same tasks waiting."""
        seen = {
            task.serial
            for demand in self.scheduler.waiting()
            for line in demand.lines
            for task in line.tasks()
        }
        seen |= {task.serial for task in self.held_up}
        lost = sorted(seen ^ self._waiting.keys())
        _hold(not lost, f"I1: tasks {lost} are lost, or wait though they do not")

    def _figures(self, pool: _Pool) -> None:
        """What the scheduler counts is what there is."""
        lane = pool.lane
        borrowed = [run.gpus for run in pool.runs.values() if run.promise is None]
        counted = {
            "nodes up": (lane.up, pool.up),
            "GPUs idle": (lane.idle, pool.idle(pool.up)),
            "runs": (lane.running, len(pool.runs)),
            "borrowers": (lane.borrowing, len(borrowed)),
            "GPUs lent": (lane.lent, sum(borrowed)),
            "GPUs promised": (lane.promised, sum(pool.promised.values())),
        } | {
            f"GPUs under the promise of {share}": (promise.used, pool.used(share))
            for share, promise in lane.promises.items()
        }
        for what, (theirs, ours) in counted.items():
            _hold(theirs == ours, f"the scheduler counts {theirs} {what} in {_name(pool)}: {ours}")

    def _owed_comes_free(self, pool: _Pool) -> None:
        """What is owed is up, owed once, and free once all who had notice have left."""
        head = pool.lane.head
        seen = head.nodes if head else 0
        for serial, keep in pool.owed.items():
            _hold(not keep.nodes & seen, f"I7: nodes owed to task {serial} are kept twice")
            _hold(not keep.nodes & ~pool.up, f"I7: nodes owed to task {serial} are down")
            _hold(not keep.nodes & ~pool.lane.kept, f"I7: nodes owed to task {serial} are not kept")
            seen |= keep.nodes
            for node in ordinals(keep.nodes):
                leaving = self._may_leave(pool, node, lambda run: run.notice_ms is not None)
                _hold(
                    pool.free(node) + leaving >= keep.slots,
                    f"I7: node {node}, owed to task {serial}, is not emptied",
                )
            ready = all(pool.free(node) >= keep.slots for node in ordinals(keep.nodes))
            _hold(not ready, f"I7: task {serial} is not started on the nodes it is owed")

    def _nothing_undone(self) -> None:
        """No task waits that could start, and no promise is broken that recalls would keep."""
        held_up = {task.serial for task in self.held_up}
        lines = {t.line: None for t in self._waiting.values() if t.serial not in held_up}
        for line in lines if self.scheduler.gate is None else ():
            for offer in line.demand.offers:
                self._offer_exhausted(line, offer)
        demands = {line.demand.serial for line in lines}
        for pool in self._pools.values():
            head = pool.lane.head
            idle = head is not None and _demand(head).serial not in demands
            _hold(not idle, f"nodes of {_name(pool)} are reserved for nobody")

    def _offer_exhausted(self, line: Line, offer: Offer) -> None:
        demand, pool = line.demand, self._pools[offer.lane.index]
        name = f"a task of demand {demand.serial}"
        head = pool.lane.head
        owed = pool.owed_nodes()
        others = owed | (head.nodes if head and head.demand is not demand else 0)
        rooms = {node: pool.free(node) for node in ordinals(pool.up & ~others)}
        fits = sum(room >= offer.slots for room in rooms.values()) >= demand.count
        may = pool.lane.lends(offer.gpus, demand.borrows)
        _hold(not (fits and may), f"{name} waits while {_name(pool)} has room")
        own = line.promises.get(offer.lane.index, ())
        open_ = [p for p in own if pool.promised[p.share] - p.used >= offer.gpus]
        if not open_:
            return
        _hold(not fits, f"I7: {name} waits while its promise has room in {_name(pool)}")
        found = sum(
            pool.free(node) + self._may_leave(pool, node, self._may_go) >= offer.slots
            for node in ordinals(pool.up & ~owed)
        )
        _hold(found < demand.count, f"I7: {name} waits for borrowers that may go, {_name(pool)}")

    def _may_leave(self, pool: _Pool, node: int, who: Callable[[_Run], bool]) -> int:
        return sum(run.slots for run in pool.runs.values() if run.nodes >> node & 1 and who(run))

    def _may_go(self, run: _Run) -> bool:
        ran_ms = self._now_ms - run.started_ms
        ripe = ran_ms >= self.tuning.min_runtime_s * 1_000
        return run.promise is None and (ripe or run.notice_ms is not None)

    def _runs(self, serial: int) -> bool:
        return any(serial in pool.runs for pool in self._pools.values())

    def running(self) -> Iterator[Task]:
        """All that runs, pool by pool, in order of start."""
        for pool in self._pools.values():
            for run in pool.runs.values():
                yield run.task


def _hold(right: object, sentence: str) -> None:
    if not right:
        raise FoulError(sentence)


def _holder(of: _Run | Keep) -> str:
    return of.promise.share if of.promise else ""


def _demand(head: Keep) -> Demand:
    assert head.demand is not None
    return head.demand


def _name(pool: _Pool) -> str:
    return pool.lane.pool_id

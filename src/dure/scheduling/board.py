"""The nation as the scheduler keeps it: a world comes in, and only what is new of it is told.

A board is built from a world and then brought up to each next one, so that a cycle costs what has
changed. Built anew or brought up, it holds the same; only what the scheduler itself remembers (who
is owed nodes that borrowers are leaving, and ranks of fair share until they are renewed) a new
board has to find out again, and does: who has notice already leaves first.

Nodes kept for blocked heads are reckoned anew with each world: ends move, as starts do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from dure.jobs import Tier
from dure.scheduling.budget import Budgets
from dure.scheduling.fairshare import FairShare
from dure.scheduling.floor import UNBOUNDED
from dure.scheduling.gate import BudgetGate
from dure.scheduling.lane import Lane, Nodes
from dure.scheduling.lines import Kind, Lines
from dure.scheduling.promise import Promise
from dure.scheduling.scheduler import Scheduler
from dure.scheduling.waiting import LATE, Demand, Line, Task
from dure.scheduling.world import NEVER_MS, Occupation, PoolState, Request, Usage, World
from dure.shares import Cell, cells, changes_ms, path
from dure.units import INSTANT_MS_MAX, MILLI

LINES_MAX: Final = 200_000
"""With more lines than that, most of them empty, a board is built anew."""

_ID_BITS: Final = 64
_LEAVING: Final = -1
"""`spared` of whom has notice: nobody else need go as long as it frees enough."""


def nodes_of(ordinals: Iterable[int]) -> Nodes:
    """A set of node ordinals."""
    nodes = 0
    for ordinal in ordinals:
        nodes |= 1 << ordinal
    return nodes


class Board:
    """Lanes, promises and tasks of one nation, and the scheduler that decides about them.

    `waiting` are the tasks in line by id, `running` those on nodes by their attempt, `outside` the
    requests that no pool may run or that nobody pays for. With `tells` it notes how each start came
    about.
    """

    def __init__(self, world: World, *, tells: bool = True) -> None:
        self.world = world
        self.until_ms = _good_until_ms(world)
        self.lanes = _lanes(world)
        promised = _promises(world, self.lanes)
        self.lines = Lines(world, self.lanes)
        self.fair = _fair_share(world)
        self.scheduler = Scheduler(self.lanes.values(), world.tuning, self.fair)
        self.gate = BudgetGate(Budgets(world), tells=tells)
        self.scheduler.gate = self.gate
        self.running: dict[str, Task] = {}
        self.waiting: dict[int, Task] = {}
        self.outside: dict[int, Request] = {}
        self._fixed: dict[str, Occupation] = {}
        self._started: dict[int, Task] = {}
        self._needs: Counter[str] = Counter()
        self._scarce: set[str] = set()
        self._made = 0
        self._terms = _terms(world)
        self._usage: dict[str, Usage] = {}
        self._nobody = Demand(-1, 0, ())
        self._see_usage(world.usage)
        self._see_nodes(world.pools)
        self._see_running(world.occupations)
        for cell in promised:
            self.scheduler.promised(self.lanes[cell.pool].promises[cell.share], cell.gpus)
        self._see_waiting(world.requests)

    # ---- a world comes in ------------------------------------------------------------------------

    def serves(self, world: World) -> bool:
        """Whether this board can be brought up to that world; else one has to be built anew."""
        mine = self.world
        return (
            mine.now_ms <= world.now_ms < self.until_ms
            and len(self.lines) <= LINES_MAX
            and mine.tuning == world.tuning
            and (mine.rules is world.rules or mine.rules == world.rules)
            and (mine.tariff is world.tariff or mine.tariff == world.tariff)
            and (mine.shares is world.shares or mine.shares == world.shares)
            and {state.pool.id: state.pool for state in mine.pools}
            == {state.pool.id: state.pool for state in world.pools}
            and all(self._terms.get(id_, terms) == terms for id_, terms in _terms(world).items())
        )

    def update(self, world: World) -> None:
        """Bring it up to a world that it serves. What was decided and is not there was dropped."""
        scheduler = self.scheduler
        self.world = world
        self._terms |= _terms(world)
        self.gate.renew(Budgets(world))
        scheduler.readmit()
        scheduler.unreserve()
        self._see_usage(world.usage)
        self._see_nodes(world.pools)
        self._see_running(world.occupations)
        self._see_waiting(world.requests)
        for task in self.owed():
            kind: Kind = task.line.source
            assert task.keep is not None
            self.gate.budgets.start(task.source, kind.quotes[task.keep.lane.pool_id])

    def decide(self, most: int = UNBOUNDED) -> None:
        """Decide, of all that there is to decide about so much as asked for; the scheduler's
        `starts` and `recalls` then say what.
        """
        self.scheduler.decide(self.world.now_ms, most)
        for task in self.scheduler.starts:
            del self.waiting[task.source.task_id]
            self._needs[task.source.allocation] -= task.line.source.hold_most
            self._started[task.source.task_id] = task

    def owed(self) -> Iterator[Task]:
        """Tasks for which borrowers are leaving."""
        for lane in self.lanes.values():
            for keep in lane.keeps:
                if keep.promise is not None and keep.task is not None:
                    yield keep.task

    def probe(self, request: Request, pool_id: str) -> Task:
        """A task that only asks when it could start in that pool, which may run it."""
        allocation = self.gate.budgets.allocation(request)
        assert allocation is not None
        line = self.lines.only(self.lines.kind(request, allocation), pool_id)
        probe = self._task(line, request)
        self.gate.probes.add(probe.serial)
        self.scheduler.submit(probe)
        return probe

    # ---- usage -----------------------------------------------------------------------------------

    def _see_usage(self, usage: Iterable[Usage]) -> None:
        """What has ended is charged as the world has it; only what runs is charged from here."""
        if self.fair is None:
            return
        shares = self.world.shares.by_id
        new = {used.share: used for used in usage if used.share in shares}
        for share in sorted(self._usage.keys() | new.keys()):
            before, now = self._usage.get(share), new.get(share)
            if before is not now and before != now:
                if before is not None:
                    self.fair.charge(share, -before.credit_ms, before.at_ms)
                if now is not None:
                    self.fair.charge(share, now.credit_ms, now.at_ms)
        self._usage = new

    # ---- nodes -----------------------------------------------------------------------------------

    def _see_nodes(self, pools: Iterable[PoolState]) -> None:
        for state in sorted(pools, key=lambda state: state.pool.id):
            lane = self.lanes[state.pool.id]
            lane.silent = state.silent
            up = 0 if state.silent else nodes_of(state.nodes)
            if up != lane.up:
                self.scheduler.nodes_changed(lane, up)

    # ---- what runs -------------------------------------------------------------------------------

    def _see_running(self, occupations: Iterable[Occupation]) -> None:
        new: list[Occupation] = []
        seen: set[str] = set()
        for held in occupations:
            seen.add(held.attempt_id)
            task = self.running.get(held.attempt_id)
            if task is None:
                if self._fixed.get(held.attempt_id) != held:
                    new.append(held)
            elif self._is_news(task, held):
                self._follow(task, held)
        for attempt_id in [id_ for id_ in self._fixed if id_ not in seen]:
            self._fix(self._fixed.pop(attempt_id), -1)
        for attempt_id in [id_ for id_ in self.running if id_ not in seen]:
            self._over(self.running.pop(attempt_id))
        for held in sorted(new, key=lambda held: (held.started_ms, held.attempt_id)):
            self._begin(held)
        for task in self._started.values():
            self._over(task)
        self._started = {}

    def _begin(self, held: Occupation) -> None:
        """Take in what runs; what was decided here is what runs, if it runs as decided."""
        if held.pool_id not in self.lanes:
            return
        if held.ends_ms >= NEVER_MS:
            if held.attempt_id in self._fixed:
                self._fix(self._fixed.pop(held.attempt_id), -1)
            self._fixed[held.attempt_id] = held
            self._fix(held, 1)
            return
        task = self._started.pop(held.task_id, None)
        if task is not None and not _is_as_decided(task, held):
            self._over(task)
            task = None
        if task is None:
            task = self._put_in(held)
        self.running[held.attempt_id] = task
        self._note(task, held)

    @staticmethod
    def _is_news(task: Task, held: Occupation) -> bool:
        """Whether the world tells of it what the board does not know: a recall that was dropped
        leaves all else as it was.
        """
        if task.notice_ms != held.recalled_ms:
            return True
        return task.source is not held and task.source != held

    def _follow(self, task: Task, held: Occupation) -> None:
        """What is new of something that runs."""
        if _is_as_decided(task, held):
            self._note(task, held)
        else:
            self._over(task)
            self._begin(held)

    def _note(self, task: Task, held: Occupation) -> None:
        dropped = task.notice_ms is not None and held.recalled_ms is None
        task.source = held
        self._has_run_since(task, held.started_ms)
        expected_ms = held.ends_ms if held.expected_ms is None else held.expected_ms
        task.expected_ms = max(1, expected_ms - held.started_ms)
        task.release_ms = max(held.ends_ms, self.world.now_ms + 1)
        task.tells = held.checkpoint_ms is not None
        task.saved_ms = held.started_ms if held.checkpoint_ms is None else held.checkpoint_ms
        task.notice_ms = held.recalled_ms
        task.recalls = held.recalls
        task.spared = int(held.recalls >= self.world.tuning.recalls_max)
        if task.notice_ms is not None:
            task.spared = _LEAVING
        assert task.lane is not None
        if dropped:
            task.lane.fasten(task)
        task.lane.note(task)
        if task.notice_ms is not None and task.promise is None and not task.loose:
            task.lane.loosen(task)
        if dropped:
            self._break_off(task)

    def _has_run_since(self, task: Task, started_ms: int) -> None:
        """It is charged from when it started, not from when that was decided."""
        share, rate_milli = task.line.share, self._rate_milli(task)
        if self.fair is not None and share and task.started_ms != started_ms:
            self.fair.ends(share, rate_milli, started_ms)
            self.fair.undo(share, rate_milli, task.started_ms, started_ms)
            self.fair.starts(share, rate_milli, started_ms)
        task.started_ms = started_ms

    @staticmethod
    def _rate_milli(task: Task) -> int:
        assert task.lane is not None
        return task.lane.weight_milli * task.gpus

    def _break_off(self, task: Task) -> None:
        """Its recall was dropped: who was owed its nodes is so no more, and asks again."""
        lane = task.lane
        assert lane is not None
        for keep in [k for k in lane.keeps if k.promise is not None]:
            if keep.nodes & task.nodes and keep.task is not None:
                waits = keep.task
                self.scheduler.withdraw(waits)
                self.scheduler.submit(waits)
        if task.promise is None:
            self._may_move_under(task, lane)

    def _may_move_under(self, task: Task, lane: Lane) -> None:
        """A borrower moves under a promise of its own share's as soon as that has room."""
        for promise in self._covering(task, lane):
            promise.own.append(task)
            self.scheduler.promised(promise, promise.gpus)

    def _covering(self, task: Task, lane: Lane) -> tuple[Promise, ...]:
        if task.source.tier is Tier.SPARE:
            return ()
        return self.lines.covering(task.line.share).get(lane.index, ())

    def _put_in(self, held: Occupation) -> Task:
        lane = self.lanes[held.pool_id]
        share = self.lines.known(held.share)
        task = Task(
            self._serial((held.job_id, held.task_id), 0),
            Line(self._nobody, share, 1, None),
            held,
        )
        task.limited = True
        task.lane, task.nodes, task.slots = lane, nodes_of(held.nodes), held.slots_per_node
        task.gpus = held.slots_per_node * len(held.nodes)
        lane.know(task.nodes)
        lane.take(task.nodes, task.slots)
        lane.running += 1
        if held.guarantor is not None:
            task.promise = lane.promises.get(held.guarantor)
            if task.promise is None:  # was promised once: it stays, and nobody else gets that
                task.promise = Promise(held.guarantor, lane, lends=True)
                lane.promises[held.guarantor] = task.promise
            task.promise.used += task.gpus
        else:
            lane.borrowing += 1
            lane.lent += task.gpus
            self._may_move_under(task, lane)
        task.started_ms = held.started_ms
        if self.fair is not None and share:
            self.fair.starts(share, self._rate_milli(task), held.started_ms)
        return task

    def _over(self, task: Task) -> None:
        """It runs no more. After a borrower, its share's next one may move under a promise."""
        lane, promise = task.lane, task.promise
        assert lane is not None
        share, rate_milli = task.line.share, self._rate_milli(task)
        self.scheduler.ended(task, self.world.now_ms)
        if self.fair is not None and share:
            self.fair.undo(share, rate_milli, task.started_ms, self.world.now_ms)
        for covering in () if promise is not None else self._covering(task, lane):
            self.scheduler.promised(covering, covering.gpus)

    def _fix(self, held: Occupation, sign: int) -> None:
        """Slots that are not there, or are there again. No end to wait for, nobody to call back."""
        lane = self.lanes[held.pool_id]
        nodes = nodes_of(held.nodes)
        lane.know(nodes)
        lane.take(nodes, sign * held.slots_per_node)
        if sign < 0:
            self.scheduler.nodes_changed(lane, lane.up)

    # ---- who waits -------------------------------------------------------------------------------

    def _see_waiting(self, requests: Iterable[Request]) -> None:
        new: list[Request] = []
        seen: set[int] = set()
        self.outside = {}
        for request in requests:
            seen.add(request.task_id)
            task = self.waiting.get(request.task_id)
            if task is None:
                new.append(request)
            elif task.source is not request and task.source != request:
                self._leave(task)
                new.append(request)
        for task_id in [id_ for id_ in self.waiting if id_ not in seen]:
            self._leave(self.waiting[task_id])
        kinds: list[tuple[Request, Kind]] = []
        for request in sorted(new, key=lambda request: (request.order, request.task_id)):
            allocation = self.gate.budgets.allocation(request)
            kind = self.lines.kind(request, allocation) if allocation else None
            if kind is None or not kind.quotes:
                self.outside[request.task_id] = request
            else:
                self._needs[request.allocation] += kind.hold_most
                kinds.append((request, kind))
        self._part_scarce()
        for request, kind in kinds:
            self._enter(request, kind)

    def _part_scarce(self) -> None:
        """Tasks whose allocation cannot carry all of them any more go into lines apart."""
        left = self.gate.budgets.left
        scarce = {id_ for id_, need in self._needs.items() if need > left(id_)} - self._scarce
        if not scarce:
            return
        self._scarce |= scarce
        for task in [t for t in self.waiting.values() if t.source.allocation in scarce]:
            if task.keep is None:
                self.scheduler.withdraw(task)
                task.line = self.lines.line(task.line.source, apart=True)
                self.scheduler.submit(task)

    def _enter(self, request: Request, kind: Kind) -> None:
        budgets = self.gate.budgets
        allocation = budgets.allocation(request)
        assert allocation is not None
        apart = (
            allocation.gpus is not None
            or request.allocation in self._scarce
            or bool(budgets.limits(request.share))
        )
        task = self._task(self.lines.line(kind, apart=apart), request)
        self.waiting[request.task_id] = task
        self.scheduler.submit(task)

    def _task(self, line: Line, request: Request) -> Task:
        task = Task(self._serial(request.order, request.task_id), line, request)
        occupied_ms, tuning = request.occupied_ms, self.world.tuning
        task.priority = request.priority
        task.expected_ms = occupied_ms if request.estimate_ms is None else request.estimate_ms
        task.bound_ms = occupied_ms
        task.limited = True
        task.since_ms = request.waiting_since_ms
        task.recalls = request.recalls
        task.spared = int(request.recalls >= tuning.recalls_max)
        if self.world.now_ms - task.since_ms >= tuning.wait_bound_s * MILLI:
            task.late = LATE
        return task

    def _leave(self, task: Task) -> None:
        del self.waiting[task.source.task_id]
        self._needs[task.source.allocation] -= task.line.source.hold_most
        self.scheduler.withdraw(task)

    def _serial(self, order: tuple[int, int], task_id: int) -> int:
        """A task's age as one number that no other task of this board ever has: one that was put in
        twice is two.
        """
        self._made += 1
        serial = order[0]
        for part in (order[1], task_id, self._made):
            serial = serial << _ID_BITS | part
        return serial


def _lanes(world: World) -> dict[str, Lane]:
    weights = dict(world.tariff.weights_milli)
    lanes: dict[str, Lane] = {}
    for state in sorted(world.pools, key=lambda state: state.pool.id):
        pool = state.pool
        lane = lanes[pool.id] = Lane(len(lanes), pool.id, pool.gpus_per_node)
        lane.weight_milli = weights.get(pool.gpu_model, MILLI)
    return lanes


def _promises(world: World, lanes: dict[str, Lane]) -> tuple[Cell, ...]:
    """A promise for each cell, of nothing yet: what runs is put in before they take effect."""
    found = cells(world.shares, (state.pool for state in world.pools), world.now_ms)
    by_id = world.shares.by_id
    for cell in found:
        lane = lanes[cell.pool]
        lends = all(by_id[share].may_lend for share in path(world.shares, cell.share))
        promise = lane.promises[cell.share] = Promise(cell.share, lane, lends=lends)
        if not lends:
            lane.withheld = (*lane.withheld, promise)
    return found


def _fair_share(world: World) -> FairShare | None:
    if not world.shares.shares:
        return None
    half_life_ms = world.tuning.half_life_s * MILLI
    return FairShare(world.shares, half_life_ms, origin_ms=world.now_ms)


def _good_until_ms(world: World) -> int:
    """The next instant at which promises, capacity or prices may change by themselves."""
    pools = [state.pool for state in world.pools]
    seasons = [at_ms for one in world.tariff.seasons for at_ms in (one.starts_ms, one.ends_ms)]
    changes = [*changes_ms(world.shares, pools), *seasons]
    return min([at_ms for at_ms in changes if at_ms > world.now_ms], default=INSTANT_MS_MAX)


def _terms(world: World) -> dict[str, object]:
    """What quotes rest on: the terms of each allocation."""
    return {state.allocation.id: state.allocation for state in world.allocations}


def _is_as_decided(task: Task, held: Occupation) -> bool:
    promise = None if task.promise is None else task.promise.share
    return (
        task.lane is not None
        and task.lane.pool_id == held.pool_id
        and task.slots == held.slots_per_node
        and task.nodes == nodes_of(held.nodes)
        and (promise == held.guarantor or held.guarantor is None)
        and held.ends_ms < NEVER_MS
    )

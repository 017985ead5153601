"""Small nations for property tests, and a clock that takes the core through what happens there.

A nation, its work and its troubles are plain values, drawn by hypothesis or written by hand. A
`Theatre` builds the nation anew and plays it; what it tells the scheduler can be recorded and told
to another one. Times are ms, and whole seconds.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from heapq import heappop, heappush

from hypothesis import strategies as st

from dure.scheduling.fairshare import FairShare
from dure.scheduling.floor import UNBOUNDED
from dure.scheduling.lane import Lane, ordinals
from dure.scheduling.promise import Promise
from dure.scheduling.referee import Referee
from dure.scheduling.scheduler import Scheduler
from dure.scheduling.tuning import Tuning
from dure.scheduling.waiting import Demand, Line, Offer, Task
from dure.shares import Share, ShareKind, Shares

S = 1_000
TREE = Shares(
    (
        Share(id="a", kind=ShareKind.OWNER),
        Share(id="a.x", kind=ShareKind.PROJECT, parent="a"),
        Share(id="b", kind=ShareKind.OWNER, weight_milli=3_000),
        Share(id="c", kind=ShareKind.PROGRAMME),
    )
)
HOLDERS = {"a": ("a",), "a.x": ("a.x", "a"), "b": ("b",), "c": ("c",), "": ()}
"""Under whose promises a share's tasks may run, the nearest first."""


@dataclass(frozen=True)
class Nation:
    """`pools` are (slots, nodes), `promises` (share, pool, GPUs, lends), and `kinds` (share, nodes,
    slots of each, pools, borrows).
    """

    pools: tuple[tuple[int, int], ...]
    promises: tuple[tuple[str, int, int, bool], ...]
    kinds: tuple[tuple[str, int, int, tuple[int, ...], bool], ...]
    tuning: Tuning
    fair: bool = True


@dataclass(frozen=True)
class Work:
    """A task: it takes `runs_s`, is expected to take `expected_s`, and is ended at `limit_s`."""

    at_s: int
    kind: int
    runs_s: int
    expected_s: int
    limit_s: int | None = None
    priority: int = 50
    tells: bool = False
    """Whether it tells of a checkpoint half-way."""
    patient_s: int | None = None
    """After how long it is withdrawn if it does not run then."""


@dataclass(frozen=True)
class Trouble:
    """Nodes of a pool fail for `lasts_s`; no `nodes` means that the promises there change, by
    `change` GPUs, and come back.
    """

    at_s: int
    pool: int
    nodes: int
    lasts_s: int
    change: int = 0


@dataclass(frozen=True)
class Decided:
    """What was decided at an instant: (task, pool, nodes, promise) and (victim, for whom)."""

    at_ms: int
    starts: tuple[tuple[int, int, int, str], ...]
    recalls: tuple[tuple[int, int], ...]


class Theatre:
    """A nation built anew, its scheduler watched by a referee."""

    def __init__(self, nation: Nation, *, watched: bool = True, at_once: int = UNBOUNDED) -> None:
        self.nation = nation
        self.at_once = at_once
        self.lanes = tuple(
            Lane(index, f"pool-{index}", slots) for index, (slots, _) in enumerate(nation.pools)
        )
        for lane, (_, nodes) in zip(self.lanes, nation.pools, strict=True):
            lane.bring_up((1 << nodes) - 1)
        fair = FairShare(TREE, nation.tuning.half_life_s * S) if nation.fair else None
        scheduler = Scheduler(self.lanes, nation.tuning, fair)
        for share, pool, gpus, lends in nation.promises:
            lane = self.lanes[pool]
            promise = lane.promises[share] = Promise(share, lane, lends=lends)
            if not lends:
                lane.withheld = (*lane.withheld, promise)
            scheduler.promised(promise, gpus)
        self.demands: dict[tuple, Demand] = {}
        self.lines = [self._line(*kind) for kind in nation.kinds]
        self.scheduler = Referee(scheduler) if watched else scheduler
        self.tasks: dict[int, Task] = {}
        self.told: list[tuple[int, str, tuple]] = []
        """All that the scheduler was told, as values: when, what, and of whom."""

    def _line(
        self,
        share: str,
        nodes: int,
        slots: int,
        pools: tuple[int, ...],
        borrows: bool,  # noqa: FBT001
    ) -> Line:
        offers = tuple(
            Offer(lane, nodes, slots, 0)
            for lane in (self.lanes[pool] for pool in pools)
            if slots <= lane.slots
        )
        key = (nodes, slots, tuple(o.lane.index for o in offers), borrows)
        demand = self.demands.get(key)
        if demand is None:
            demand = self.demands[key] = Demand(len(self.demands), nodes, offers)
            demand.borrows = borrows
        for line in demand.lines:
            if line.share == share:
                return line
        promises = {
            o.lane.index: tuple(o.lane.promises[h] for h in HOLDERS[share] if h in o.lane.promises)
            for o in offers
        }
        return demand.line(share, nodes * slots, None, promises)

    def task(self, serial: int, work: Work) -> Task:
        task = self.tasks[serial] = Task(serial, self.lines[work.kind], work)
        task.priority = work.priority
        task.expected_ms = work.expected_s * S
        task.limited = work.limit_s is not None
        task.bound_ms = (work.expected_s if work.limit_s is None else work.limit_s) * S
        task.since_ms = work.at_s * S
        return task

    # ---- what a scheduler is told, as values that can be told again ------------------------------

    def tell(self, at_ms: int, what: str, *about) -> None:
        self.told.append((at_ms, what, about))
        scheduler = self.scheduler
        match what:
            case "submit":
                serial, expected_ms, bound_ms = about
                task = self.tasks[serial]
                task.expected_ms, task.bound_ms = expected_ms, bound_ms
                scheduler.submit(task)
            case "ended":
                scheduler.ended(self.tasks[about[0]], at_ms)
            case "saved":
                scheduler.saved(self.tasks[about[0]], at_ms)
            case "withdraw":
                scheduler.withdraw(self.tasks[about[0]])
            case "nodes":
                scheduler.nodes_changed(self.lanes[about[0]], about[1])
            case "promised":
                share, pool, gpus = about
                scheduler.promised(self.lanes[pool].promises[share], gpus)

    def decide(self, at_ms: int) -> Decided:
        """All there is to decide, in as many goes as that takes."""
        self.told.append((at_ms, "decide", ()))
        scheduler = self.scheduler
        starts, recalls = [], []
        while True:
            scheduler.decide(at_ms, self.at_once)
            starts += (
                (t.serial, t.lane.index, t.nodes, t.promise.share if t.promise else "")
                for t in scheduler.starts
            )
            recalls += ((v.serial, b.serial) for v, b in scheduler.recalls)
            if not scheduler.unfinished:
                return Decided(at_ms, tuple(starts), tuple(recalls))


class Clock:
    """Plays work and troubles on a theatre. `chance` shuffles what happens at one instant."""

    STEPS_MAX = 20_000

    def __init__(self, theatre: Theatre, *, chance: random.Random | None = None) -> None:
        self.theatre = theatre
        self.chance = chance
        self.decided: list[Decided] = []
        self.started_ms: dict[int, int] = {}
        """When each task started first."""
        self.ended_ms: dict[int, int] = {}
        self._events: list[tuple] = []
        self._left_ms: dict[int, int] = {}
        self._waits: set[int] = set()
        self._run: Counter[int] = Counter()
        self._down = {lane.index: Counter() for lane in theatre.lanes}

    def play(self, works, troubles=()) -> list[Decided]:
        """Play all of it to the end, or as far as anything can still happen."""
        theatre, events = self.theatre, self._events
        for serial, work in enumerate(works, start=1):
            theatre.task(serial, work)
            limit_s = work.runs_s if work.limit_s is None else min(work.runs_s, work.limit_s)
            self._left_ms[serial] = limit_s * S
            heappush(events, (work.at_s * S, 2, serial, "submit", 0))
            if work.patient_s is not None:
                heappush(events, ((work.at_s + work.patient_s) * S, 3, serial, "withdraw", 0))
        for number, trouble in enumerate(troubles):
            heappush(events, (trouble.at_s * S, 1, number, "trouble", trouble))
            ends_s = trouble.at_s + trouble.lasts_s
            heappush(events, (ends_s * S, 1, number, "relief", trouble))
        for _ in range(self.STEPS_MAX):
            now_ms = self._next_ms()
            if now_ms is None:
                return self.decided
            self._happen(now_ms)
            decided = theatre.decide(now_ms)
            if decided.starts or decided.recalls:
                self.decided.append(decided)
            self._follow(decided)
        raise AssertionError("it does not come to an end")

    def _next_ms(self) -> int | None:
        wake_ms = self.theatre.scheduler.wake_ms
        if not self._events:
            return wake_ms if self.theatre.scheduler.active else None
        return min(self._events[0][0], self._events[0][0] if wake_ms is None else wake_ms)

    def _happen(self, now_ms: int) -> None:
        """Ends come before changes, changes before submissions; those alike in any order."""
        events = self._events
        while events and events[0][0] <= now_ms:
            step = events[0][1]
            alike = []
            while events and events[0][0] <= now_ms and events[0][1] == step:
                alike.append(heappop(events))
            if self.chance is not None:
                self.chance.shuffle(alike)
            for _, _, key, what, about in alike:
                self._one(now_ms, key, what, about)

    def _one(self, now_ms: int, key: int, what: str, about) -> None:
        theatre = self.theatre
        match what:
            case "submit":
                task = theatre.tasks[key]
                self._waits.add(key)
                theatre.tell(now_ms, "submit", key, task.expected_ms, task.bound_ms)
            case "withdraw" if key in self._waits:
                self._waits.discard(key)
                theatre.tell(now_ms, "withdraw", key)
            case "end" if self._run[key] == about:
                self.ended_ms[key] = now_ms
                theatre.tell(now_ms, "ended", key)
            case "vacate" if self._run[key] == about:
                theatre.tell(now_ms, "ended", key)
                self._again(now_ms, theatre.tasks[key])
            case "saved" if self._run[key] == about:
                theatre.tell(now_ms, "saved", key)
            case "trouble" | "relief" if about.nodes:
                self._nodes(now_ms, about, 1 if what == "trouble" else -1)
            case "trouble" | "relief":
                self._promises(now_ms, about, 1 if what == "trouble" else -1)

    def _nodes(self, now_ms: int, trouble: Trouble, sign: int) -> None:
        theatre, lane = self.theatre, self.theatre.lanes[trouble.pool]
        down = self._down[lane.index]
        for node in ordinals(trouble.nodes):
            down[node] += sign
        nodes = theatre.nation.pools[lane.index][1]
        up = sum(1 << node for node in range(nodes) if not down[node])
        theatre.tell(now_ms, "nodes", lane.index, up)
        for task in list(theatre.tasks.values()):
            if task.lane is lane and task.nodes & ~up:
                theatre.tell(now_ms, "ended", task.serial)
                self._again(now_ms, task)

    def _promises(self, now_ms: int, trouble: Trouble, sign: int) -> None:
        lane = self.theatre.lanes[trouble.pool]
        for share, promise in lane.promises.items():
            gpus = promise.gpus - sign * min(
                trouble.change, _given(self.theatre.nation, lane, share)
            )
            self.theatre.tell(now_ms, "promised", share, lane.index, max(0, gpus))

    def _again(self, now_ms: int, task: Task) -> None:
        """A run was cut short: the task is queued again, to do what is left."""
        self._run[task.serial] += 1
        task.notice_ms = None
        heappush(self._events, (now_ms, 2, task.serial, "submit", 0))

    def _follow(self, decided: Decided) -> None:
        events, tasks, now_ms = self._events, self.theatre.tasks, decided.at_ms
        for serial, *_ in decided.starts:
            task = tasks[serial]
            self.started_ms.setdefault(serial, now_ms)
            self._waits.discard(serial)
            self._run[serial] += 1
            run, left_ms = self._run[serial], self._left_ms[serial]
            heappush(events, (now_ms + left_ms, 0, serial, "end", run))
            if task.source.tells and left_ms > 2 * S:
                heappush(events, (now_ms + left_ms // 2, 1, serial, "saved", run))
        notice_ms = self.theatre.nation.tuning.recall_s * S
        for serial, _ in decided.recalls:
            victim = tasks[serial]
            ran_ms = now_ms - victim.started_ms
            self._left_ms[serial] -= min(ran_ms, self._left_ms[serial] - S)
            victim.expected_ms = max(S, victim.expected_ms - ran_ms)
            victim.bound_ms = max(victim.bound_ms - ran_ms, victim.expected_ms)
            self._run[serial] += 1
            heappush(events, (now_ms + notice_ms, 0, serial, "vacate", self._run[serial]))


def _given(nation: Nation, lane: Lane, share: str) -> int:
    return next(g for s, pool, g, _ in nation.promises if (s, pool) == (share, lane.index))


def retell(nation: Nation, works, told) -> list[Decided]:
    """Tell a fresh scheduler what another one was told; what it decides."""
    theatre = Theatre(nation, watched=False)
    for serial, work in enumerate(works, start=1):
        theatre.task(serial, work)
    decided = []
    for at_ms, what, about in told:
        if what == "decide":
            answer = theatre.decide(at_ms)
            if answer.starts or answer.recalls:
                decided.append(answer)
        else:
            theatre.tell(at_ms, what, *about)
    return decided


# ---- drawn ---------------------------------------------------------------------------------------


@st.composite
def tunings(draw) -> Tuning:
    return Tuning(
        recall_s=draw(st.sampled_from([1, 5, 60])),
        recalls_max=draw(st.integers(1, 3)),
        min_runtime_s=draw(st.sampled_from([0, 10, 100])),
        half_life_s=draw(st.sampled_from([60, 3_600])),
        wait_bound_s=draw(st.sampled_from([20, 200, 100_000])),
        patience_s=draw(st.sampled_from([0, 15, 100_000])),
        rank_period_s=draw(st.sampled_from([1, 60])),
        borrow_before_recall_s=draw(st.sampled_from([0, 30])),
        checkpoint_age_s=draw(st.sampled_from([0, 20])),
    )


@st.composite
def nations(draw) -> Nation:
    """1 to 3 pools of 1 to 6 nodes with 1 to 8 slots, whose promises hold no more than there is."""
    pools = draw(
        st.lists(
            st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(1, 6)), min_size=1, max_size=3
        )
    )
    promises = []
    for pool, (slots, nodes) in enumerate(pools):
        left = slots * nodes
        for share in ("a", "a.x", "b", "c"):
            gpus = draw(st.integers(0, left)) if draw(st.booleans()) else 0
            if gpus:
                promises.append((share, pool, gpus, draw(st.integers(0, 4)) > 0))
                left -= gpus
    everywhere = tuple(range(len(pools)))
    kinds = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["", "a", "a.x", "b", "c"]),
                st.integers(1, 3),
                st.integers(1, max(slots for slots, _ in pools)),
                st.lists(st.sampled_from(everywhere), min_size=1, unique=True)
                .map(sorted)
                .map(tuple),
                st.integers(0, 4).map(bool),
            ),
            min_size=1,
            max_size=5,
        )
    )
    return Nation(tuple(pools), tuple(promises), tuple(kinds), draw(tunings()), draw(st.booleans()))


@st.composite
def works(draw, nation: Nation, *, most: int = 25) -> tuple[Work, ...]:
    at_s = st.integers(0, 120)
    runs_s = st.one_of(st.integers(1, 20), st.integers(1, 300))
    found = []
    for _ in range(draw(st.integers(1, most))):
        runs = draw(runs_s)
        expected = draw(st.one_of(st.just(runs), runs_s))
        limit = draw(st.sampled_from([None, expected, 2 * expected]))
        found.append(
            Work(
                draw(at_s),
                draw(st.integers(0, len(nation.kinds) - 1)),
                runs,
                expected,
                limit,
                draw(st.sampled_from([50, 50, 50, 20, 80])),
                draw(st.booleans()),
                draw(st.sampled_from([None, None, 10])),
            )
        )
    return tuple(found)


@st.composite
def troubles(draw, nation: Nation) -> tuple[Trouble, ...]:
    found = []
    for _ in range(draw(st.integers(0, 4))):
        pool = draw(st.integers(0, len(nation.pools) - 1))
        nodes = draw(st.integers(0, (1 << nation.pools[pool][1]) - 1))
        when, lasts = draw(st.integers(0, 200)), draw(st.integers(1, 100))
        found.append(Trouble(when, pool, nodes, lasts, draw(st.integers(1, 8))))
    return tuple(found)


@st.composite
def plays(draw) -> tuple[Nation, tuple[Work, ...], tuple[Trouble, ...]]:
    """A nation, its work and its troubles."""
    nation = draw(nations())
    return nation, draw(works(nation)), draw(troubles(nation))

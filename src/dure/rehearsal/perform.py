"""A scenario on the production scheduler: `dure rehearse run`.

Waves arrive, promises follow them, workloads submit, faults strike; the clock is simulated and all
else is what runs the nation.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from heapq import merge
from itertools import chain
from typing import Any, Final

from dure.fleet import Pool
from dure.policy import Allowed, verdict
from dure.rehearsal.answer import answer
from dure.rehearsal.book import Book
from dure.rehearsal.calibration import Calibrated, Calibration
from dure.rehearsal.faults import (
    Happening,
    NodesDown,
    NodesUp,
    RecallFactor,
    SiteBack,
    SiteSilent,
    happenings,
)
from dure.rehearsal.measure import Summary
from dure.rehearsal.nation import Change, Nation, Terms
from dure.rehearsal.opening import EMPTY, Opening
from dure.rehearsal.record import SITE_OUTAGE, Faulted, Record
from dure.rehearsal.scenario import Rehearsal, setting
from dure.rehearsal.stage import Place, Stage
from dure.rehearsal.submissions import arrivals
from dure.rehearsal.workload import Arrival, Kind
from dure.scheduling.estimate import EstimateError, Estimator
from dure.scheduling.lane import Lane, Nodes
from dure.shares import Cell, cells, changes_ms

_MS: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Performed:
    """What came of a rehearsal."""

    summary: Summary
    digest: str
    end_ms: int
    wall_s: float
    estimates: EstimateError
    start_estimates: Calibrated | None = None
    unserved: int = 0
    """Jobs that nothing ever came free for: they are in no figure."""

    def to_dict(self) -> dict[str, Any]:
        """As `dure rehearse run --output json` prints it, but for what was asked."""
        found = answer(self.summary, self.digest, self.wall_s, self.estimates, self.start_estimates)
        return found | {"unserved_jobs": self.unserved}


def perform(
    rehearsal: Rehearsal,
    record: Record | None = None,
    passing: Callable[[Iterator[Arrival]], Iterator[Arrival]] = iter,
    *,
    lending: bool = True,
    opening: Opening = EMPTY,
    ask_every: int | None = None,
) -> Performed:
    """Play a scenario to its last job's end, from what runs and waits at its opening on. Without
    `lending`, every share keeps what it is promised to itself. `passing` sees the jobs go by, for a
    progress bar. One job in `ask_every`, if any, asks when it will start.
    """
    began = time.perf_counter()
    world = _World(rehearsal, lending=lending)
    book = Book(world.stage, record)
    world.book = book
    book.count_use(rehearsal.span.length_ms)
    estimator = Estimator()
    terms = Terms(overhead_ms=rehearsal.policy.tuning.recall_s * _MS, saves_on_notice=False)
    calibration = Calibration(ask_every) if ask_every else None
    nation = Nation(world.stage, book, terms, estimator, calibration)
    world.open(nation, opening)
    stream = passing(arrivals(rehearsal.workloads, setting(rehearsal)))
    end_ms = nation.play(stream, world.changes())
    summary = _within_span(book, world)
    return Performed(
        summary=summary,
        digest=book.record.digest(summary.to_dict()),
        end_ms=end_ms,
        wall_s=time.perf_counter() - began,
        estimates=estimator.error(),
        start_estimates=calibration.result() if calibration else None,
        unserved=nation.submitted - summary.jobs,
    )


def _within_span(book: Book, world: _World) -> Summary:
    """The figures of all jobs, but the use of GPUs within the span: what was submitted before its
    end runs on after it, when nothing new comes.
    """
    capacity = world.capacity_gpu_ms(book.until_ms)
    summary = book.measures.summary(capacity)
    used = book.used_gpu_ms
    per_operator = {
        operator: replace(figures, utilisation=_part(used[operator], capacity.get(operator, 0)))
        for operator, figures in summary.per_operator.items()
    }
    whole = _part(sum(used.values()), sum(capacity.values()))
    return replace(summary, utilisation=whole, per_operator=per_operator)


def _part(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


class _World:
    """The fleet as it changes: waves, windows of guarantees, failing nodes, lost sites."""

    def __init__(self, rehearsal: Rehearsal, *, lending: bool) -> None:
        self._rehearsal = rehearsal
        self._starts_ms = rehearsal.span.starts_ms
        fleet = rehearsal.nation.fleet
        self._pools = {pool.id: pool for pool in fleet.pools}
        weights = dict(rehearsal.nation.tariff.weights_milli)
        places = [
            Place(
                pool=pool.id,
                owner=pool.operator_id,
                gpu_model=pool.gpu_model,
                gpus_per_node=pool.gpus_per_node,
                nodes=0,
                weight_milli=weights[pool.gpu_model],
            )
            for pool in fleet.pools
        ]
        self.stage = Stage(places, rehearsal.shares, rehearsal.policy.tuning, self._may_run)
        self.stage.lending = lending
        self.book: Book | None = None
        self._down: dict[str, Nodes] = dict.fromkeys(self._pools, 0)
        self._silent: set[str] = set()
        self._lost: dict[str, tuple[int, int]] = {}
        self._owned: Counter[str] = Counter()
        self._entitled: Counter[str] = Counter()
        self._capacity: Counter[str] = Counter()
        self._counted_ms = 0
        for cell in self._all_cells():
            self.stage.promise(cell.share, cell.pool, 0)

    def open(self, nation: Nation, opening: Opening) -> None:
        """Put what runs and waits at the start in its place."""
        self._renew(nation, 0)
        opening.enter(nation)

    def changes(self) -> Iterator[Change]:
        """All that changes in the fleet, in order of time, from the start on."""
        span = self._rehearsal.span
        waves = ((at_ms - self._starts_ms, self._renew) for at_ms in self._instants())
        faults = (
            (happening.at_ms - self._starts_ms, _Fault(self, happening))
            for happening in happenings(self._rehearsal.faults, tuple(self._pools.values()), span)
        )
        return merge(waves, faults, key=lambda change: change[0])

    def capacity_gpu_ms(self, until_ms: int) -> dict[str, int]:
        """The GPU time in service from the latest change on until then, and before, by owner."""
        self._count(max(until_ms, self._counted_ms))
        return dict(self._capacity)

    # ---- what changes ----------------------------------------------------------------------------

    def _instants(self) -> Iterator[int]:
        span = self._rehearsal.span
        later = changes_ms(self._rehearsal.shares, self._pools.values())
        return chain([span.starts_ms], (at for at in later if span.starts_ms < at < span.ends_ms))

    def _all_cells(self) -> list[Cell]:
        found: dict[tuple[str, str], Cell] = {}
        for at_ms in self._instants():
            for cell in self._cells(at_ms):
                found.setdefault((cell.pool, cell.share), cell)
        return [found[key] for key in sorted(found)]

    def _cells(self, at_ms: int) -> tuple[Cell, ...]:
        return cells(self._rehearsal.shares, self._pools.values(), at_ms)

    def _renew(self, _nation: Nation, now_ms: int) -> None:
        """Bring pools and promises to what the plan says from now on."""
        at_ms = now_ms + self._starts_ms
        for pool in self._pools.values():
            self._set_up(pool, at_ms)
        promised = {(cell.share, cell.pool): cell.gpus for cell in self._cells(at_ms)}
        for lane in self.stage.lanes:
            for share, promise in lane.promises.items():
                gpus = promised.get((share, lane.pool_id), 0)
                if gpus != promise.gpus:
                    self.stage.promise(share, lane.pool_id, gpus)
        self._count(now_ms)
        self._tell_owned(now_ms, at_ms, promised)

    def _set_up(self, pool: Pool, at_ms: int) -> None:
        lane = self.stage.by_pool[pool.id]
        up = 0
        if pool.cluster_id not in self._silent:
            up = ((1 << pool.nodes_in_service(at_ms)) - 1) & ~self._down[pool.id]
        if up != lane.up:
            self.stage.scheduler.nodes_changed(lane, up)

    def happens(self, nation: Nation, now_ms: int, happening: Happening) -> None:
        """Something goes wrong, or comes right."""
        at_ms = now_ms + self._starts_ms
        match happening:
            case NodesDown(pool=pool_id, nodes=nodes):
                lane = self.stage.by_pool[pool_id]
                bits = _bits(nodes)
                self._down[pool_id] |= bits
                self._set_up(self._pools[pool_id], at_ms)
                nation.fail(lane, bits)
            case NodesUp(pool=pool_id, nodes=nodes):
                self._down[pool_id] &= ~_bits(nodes)
                self._set_up(self._pools[pool_id], at_ms)
            case SiteSilent(cluster=cluster):
                self._silent.add(cluster)
                gpus = sum(lane.up.bit_count() * lane.slots for lane in self._of(cluster))
                self._lost[cluster] = (now_ms, gpus)
                for lane in self._of(cluster):
                    self._set_up(self._pools[lane.pool_id], at_ms)
                    nation.lose(lane)
            case SiteBack(cluster=cluster):
                self._silent.discard(cluster)
                since_ms, gpus = self._lost.pop(cluster)
                if self.book is not None:
                    outage = Faulted(since_ms, now_ms, SITE_OUTAGE, cluster, gpus)
                    self.book.record.faulted(outage)
                for lane in self._of(cluster):
                    self._set_up(self._pools[lane.pool_id], at_ms)
            case RecallFactor(cluster=cluster, factor=factor):
                for lane in self._of(cluster):
                    nation.slow_down(lane, factor)

    def _of(self, cluster: str) -> list[Lane]:
        return [
            self.stage.by_pool[pool.id]
            for pool in self._pools.values()
            if pool.cluster_id == cluster
        ]

    # ---- what is told ----------------------------------------------------------------------------

    def _count(self, now_ms: int) -> None:
        for owner, gpus in self._owned.items():
            self._capacity[owner] += gpus * (now_ms - self._counted_ms)
        self._counted_ms = now_ms

    def _tell_owned(self, now_ms: int, at_ms: int, promised: dict[tuple[str, str], int]) -> None:
        """Whose the GPUs in service are: a root share's, or, unpromised, the operator's."""
        owned: Counter[str] = Counter()
        entitled: Counter[str] = Counter()
        for pool in self._pools.values():
            owned[pool.operator_id] += pool.nodes_in_service(at_ms) * pool.gpus_per_node
        for (share, pool_id), gpus in promised.items():
            owned[self._pools[pool_id].operator_id] -= gpus
            owned[self.stage.root[share]] += gpus
            entitled[self.stage.side[share]] += gpus
        for before, after, tell in (
            (self._owned, owned, self._tell_capacity),
            (self._entitled, entitled, self._tell_entitled),
        ):
            for name in sorted(before.keys() | after.keys()):
                if delta := after[name] - before[name]:
                    tell(now_ms, name, delta)
        self._owned, self._entitled = owned, entitled

    def _tell_capacity(self, now_ms: int, owner: str, delta_gpus: int) -> None:
        if self.book is not None:
            self.book.record.capacity_changed(now_ms, owner, delta_gpus)

    def _tell_entitled(self, now_ms: int, share: str, delta_gpus: int) -> None:
        if self.book is not None:
            self.book.record.share_changed(now_ms, share, 0, delta_gpus)

    def _may_run(self, kind: Kind, pool_id: str) -> bool:
        rules = self._rehearsal.nation.rules
        return isinstance(verdict(rules, kind.data_class, self._pools[pool_id]), Allowed)


@dataclass(frozen=True, slots=True)
class _Fault:
    """A happening, as a change that the nation goes through."""

    world: _World
    happening: Happening

    def __call__(self, nation: Nation, now_ms: int) -> None:
        self.world.happens(nation, now_ms, self.happening)


def _bits(nodes: tuple[int, ...]) -> Nodes:
    return sum(1 << node for node in nodes)

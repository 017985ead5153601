"""The stage of a rehearsal: the nation's pools, promises and lines, as the scheduler knows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dure.jobs import Tier
from dure.rehearsal.ceilings import Ceilings
from dure.rehearsal.workload import Kind
from dure.scheduling.fairshare import FairShare
from dure.scheduling.lane import Lane
from dure.scheduling.promise import Promise
from dure.scheduling.scheduler import Scheduler
from dure.scheduling.tuning import Tuning
from dure.scheduling.waiting import NOTHING, Demand, Line, Offer, Promises, Task
from dure.shares import Guarantee, Share, ShareKind, Shares, path

_MS: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A pool on the stage: `nodes` there are at first; a GPU is worth `weight_milli`."""

    pool: str
    owner: str
    gpu_model: str
    gpus_per_node: int
    nodes: int
    weight_milli: int = 1_000


class Stage:
    """Lanes, promises and lines of one rehearsal.

    `may_run(kind, pool)` says whether a rule lets jobs of a kind onto a pool.
    """

    def __init__(
        self,
        places: Sequence[Place],
        shares: Shares,
        tuning: Tuning,
        may_run: Callable[[Kind, str], bool],
    ) -> None:
        self.places = tuple(places)
        self.shares = shares
        self.lanes = tuple(
            Lane(index, place.pool, place.gpus_per_node) for index, place in enumerate(places)
        )
        self.by_pool = {lane.pool_id: lane for lane in self.lanes}
        for lane, place in zip(self.lanes, places, strict=True):
            lane.weight_milli = place.weight_milli
            lane.bring_up((1 << place.nodes) - 1)
        fair = FairShare(shares, tuning.half_life_s * _MS) if shares.shares else None
        self.scheduler = Scheduler(self.lanes, tuning, fair)
        self.ceilings = Ceilings(shares)
        if self.ceilings:
            self.scheduler.gate = self.ceilings
        self._paths = {share.id: path(shares, share.id) for share in shares.shares}
        self.root = {share: up[-1] for share, up in self._paths.items()}
        promised = {share.id for share in shares.shares if share.guarantees}
        self.side = {
            share: up[-2] if len(up) > 1 and up[-2] in promised else up[-1]
            for share, up in self._paths.items()
        }
        """The share right below its root that a share belongs to; the root itself, where that one
        is promised nothing of its own."""
        self.lending = True
        """Whether shares lend and borrow at all."""
        self.names: Mapping[str, str] = {}
        """What people call a share, where that is not its id."""
        self._may_run = may_run
        self._lines: dict[int, tuple[Kind, Line]] = {}
        self._demands: dict[tuple[object, ...], Demand] = {}
        self._by_terms: dict[tuple[object, ...], Line] = {}
        self._covered: dict[str, Promises] = {}

    def promise(self, share: str, pool: str, gpus: int) -> None:
        """From now on, a share is promised so many GPUs of a pool. All shares that ever are must
        have been named before the first line is asked for.
        """
        lane = self.by_pool[pool]
        promise = lane.promises.get(share)
        if promise is None:
            lends = self.shares.by_id[share].may_lend
            promise = lane.promises[share] = Promise(share, lane, lends=lends)
            if not lends:
                lane.withheld = (*lane.withheld, promise)
        self.scheduler.promised(promise, gpus)

    def line(self, kind: Kind) -> Line:
        """The line in which jobs of a kind wait."""
        known = self._lines.get(id(kind))
        if known is None:
            known = self._lines[id(kind)] = (kind, self._line(kind))
        return known[1]

    def take_up(self, task: Task, lane: Lane, guarantor: str | None) -> None:
        """A task runs already, on its nodes of a lane: under that share's guarantee, or borrowing
        where there is no such promise any more.
        """
        lane.know(task.nodes)  # some are to go, or down
        lane.take(task.nodes, task.slots)
        lane.running += 1
        task.lane = lane
        task.promise = lane.promises.get(guarantor or "")
        if task.promise is not None:
            task.promise.used += task.gpus
        else:
            lane.borrowing += 1
            lane.lent += task.gpus
            for own in task.line.promises.get(lane.index, ()):
                own.own.append(task)
        lane.note(task)
        if self.scheduler.fair is not None and task.line.share:
            rate = lane.weight_milli * task.gpus
            self.scheduler.fair.starts(task.line.share, rate, task.started_ms)

    def settle(self) -> None:
        """All that runs already has been taken up: what promises have room for moves under them."""
        for lane in self.lanes:
            for promise in lane.promises.values():
                self.scheduler.promised(promise, promise.gpus)

    def lender(self, lane: Lane) -> str | None:
        """The share whose guarantee in a pool idles most: a borrower runs on what is its."""
        best = max(lane.promises.values(), key=lambda p: (p.room, p.share), default=None)
        return None if best is None or best.room <= 0 else best.share

    def called(self, share: str) -> str:
        """What people call a share."""
        return self.names.get(share, share)

    def owner(self, task: Task, lane: Lane) -> str:
        """Whose GPUs a task runs on that nobody lends it: its own share's root, or the pool's."""
        if task.promise is not None:
            return self.called(self.root[task.promise.share])
        return self.places[lane.index].owner

    def _line(self, kind: Kind) -> Line:
        demand = self._demand(kind)
        terms = (demand.serial, kind.share, kind.tier is Tier.SPARE)
        line = self._by_terms.get(terms)
        if line is None:
            promises = NOTHING if kind.tier is Tier.SPARE else self._covering(kind.share)
            line = self._by_terms[terms] = demand.line(kind.share, kind.gpus, kind, promises)
        return line

    def _covering(self, share: str) -> Promises:
        """The promises that cover a share, by lane, those of the nearest share first."""
        known = self._covered.get(share)
        if known is None:
            holders = self._paths.get(share, ())
            known = self._covered[share] = {
                lane.index: tuple(lane.promises[held] for held in holders if held in lane.promises)
                for lane in self.lanes
                if any(held in lane.promises for held in holders)
            }
        return known

    def _demand(self, kind: Kind) -> Demand:
        holders = self._paths.get(kind.share, ())
        borrows = (
            self.lending
            and kind.tier is not Tier.RESERVED
            and all(self.shares.by_id[share].may_borrow for share in holders)
        )
        lanes = tuple(lane for lane, place in zip(self.lanes, self.places, strict=True)
                      if self._suits(kind, place))  # fmt: skip
        key = (kind.nodes, kind.gpus_per_node, borrows, tuple(lane.index for lane in lanes))
        demand = self._demands.get(key)
        if demand is None:
            offers = tuple(Offer(lane, kind.nodes, kind.gpus_per_node, 0) for lane in lanes)
            demand = self._demands[key] = Demand(len(self._demands), kind.nodes, offers)
            demand.borrows = borrows
        return demand

    def _suits(self, kind: Kind, place: Place) -> bool:
        if kind.gpu_models and place.gpu_model not in kind.gpu_models:
            return False
        if kind.pool is not None and place.pool != kind.pool:
            return False
        return kind.gpus_per_node <= place.gpus_per_node and self._may_run(kind, place.pool)


def owners(gpus: Mapping[str, int]) -> Shares:
    """A tree of owners, `vc-1` for the first pool and so on, each promised all of its pool."""
    return Shares(
        tuple(
            Share(
                id=owner_of(number),
                kind=ShareKind.OWNER,
                weight_milli=count * 1_000,
                guarantees=(Guarantee(gpus=count, pool=pool),),
            )
            for number, (pool, count) in enumerate(gpus.items(), start=1)
        )
    )


def owner_of(number: int) -> str:
    """The share of a trace's n-th VC, whose own name may be no share's id."""
    return f"vc-{number}"

"""In which line a request waits: with those of its share that want the same of the same pools.

A line is looked up by what its tasks have in common; what is made of it (quotes, promises, the
demand it belongs to) is made once. Demands are shared as widely as can be, for of each only the
head is tried: across projects, tariffs and subsidies, as long as the pools rank alike by price.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from dure.allocations import Allocation
from dure.jobs import Resources, Tier
from dure.scheduling.eligible import Eligible, Quote, Quotes
from dure.scheduling.lane import Lane
from dure.scheduling.waiting import NOTHING, Demand, Line, Offer, Promises
from dure.scheduling.world import Request, World
from dure.shares import path


class Alike(NamedTuple):
    """What decides where a task can start: tasks alike in this fare alike."""

    allocation: str
    project: str
    share: str
    resources: Resources
    occupied_ms: int
    data_class: str
    tier: Tier

    @classmethod
    def of(cls, request: Request) -> Alike:
        """The class of a request."""
        return cls(
            request.allocation,
            request.project,
            request.share,
            request.resources,
            request.occupied_ms,
            request.data_class,
            request.tier,
        )


@dataclass(frozen=True, slots=True)
class Kind:
    """What all tasks of a line have in common. `hold_most` is what one of them costs at most, where
    it is dearest; kinds of one `look` stand alike towards every pool.
    """

    alike: Alike
    found: Eligible
    quotes: Mapping[str, Quote]
    covering: Promises
    borrows: bool
    hold_most: int
    look: int
    apart: bool = False
    """Whether something of its own, a scarce balance say, may bar one pool and not the next. Where
    not, its allocation carries all that wait for it.
    """


class Lines:
    """All lines of a board, and the demands that they are lines of."""

    __slots__ = (
        "_by_alike",
        "_covering",
        "_demands",
        "_kinds",
        "_lanes",
        "_looks",
        "_shares",
        "_wants",
        "quotes",
    )

    def __init__(self, world: World, lanes: Mapping[str, Lane]) -> None:
        self._lanes = lanes
        self._shares = world.shares
        self.quotes = Quotes(world)
        self._kinds: dict[Alike, Kind] = {}
        self._by_alike: dict[tuple[Alike, bool], Line] = {}
        self._demands: dict[tuple[object, ...], Demand] = {}
        self._wants: dict[int, tuple[tuple[int, int, int], ...]] = {}
        self._looks: dict[tuple[object, ...], int] = {}
        self._covering: dict[str, Promises] = {"": NOTHING}
        for lane in lanes.values():
            for share, promise in lane.promises.items():
                own = self._covering.setdefault(share, {})
                assert isinstance(own, dict)
                own[lane.index] = (promise,)
        self._inherit()

    def __len__(self) -> int:
        return len(self._by_alike)

    def kind(self, request: Request, allocation: Allocation) -> Kind:
        """The kind of a request on its allocation."""
        alike = Alike.of(request)
        kind = self._kinds.get(alike)
        if kind is None:
            kind = self._kinds[alike] = self._kind(alike, request, allocation)
        return kind

    def line(self, kind: Kind, *, apart: bool) -> Line:
        """The line of a kind that some pool may run; `apart` from all other kinds or not."""
        line = self._by_alike.get((kind.alike, apart))
        if line is None:
            kind = replace(kind, apart=apart)
            demand = self._demand(kind)
            gpus = min(quote.gpus for quote in kind.quotes.values())
            line = demand.line(self.known(kind.alike.share), gpus, kind, kind.covering)
            self._by_alike[kind.alike, apart] = line
        return line

    def only(self, kind: Kind, pool_id: str) -> Line:
        """A line of its own, for a task of that kind that asks in one pool only."""
        quotes = {pool_id: kind.quotes[pool_id]}
        found = replace(kind.found, quotes=tuple(quotes.values()))
        mine = replace(kind, quotes=quotes, found=found, apart=True)
        demand = self._demand(mine)
        gpus = quotes[pool_id].gpus
        return demand.line(self.known(kind.alike.share), gpus, mine, kind.covering)

    def covering(self, share: str) -> Promises:
        """The promises that cover a share."""
        return self._covering[self.known(share)]

    def known(self, share: str) -> str:
        """That share; "" for one that the tree does not have."""
        return share if share in self._shares.by_id else ""

    def _inherit(self) -> None:
        """Whoever has no promise of its own shares its parent's table."""
        parents: list[str | None] = [None]
        for parent in parents:
            above = self._covering[parent or ""]
            for child in self._shares.children.get(parent, ()):
                own = self._covering.get(child.id)
                if own is None:
                    self._covering[child.id] = above
                else:
                    self._covering[child.id] = {
                        lane: own.get(lane, ()) + above.get(lane, ())
                        for lane in sorted(own.keys() | above.keys())
                    }
                parents.append(child.id)

    def _kind(self, alike: Alike, request: Request, allocation: Allocation) -> Kind:
        found = self.quotes.of(request, allocation)
        share = self.known(alike.share)
        holders = path(self._shares, share) if share else ()
        may = all(self._shares.by_id[holder].may_borrow for holder in holders)
        look = (alike.resources, alike.occupied_ms, self._wanted(found), found.by_rule)
        dearest = max(found.quotes, key=lambda quote: quote.rate, default=None)
        return Kind(
            alike=alike,
            found=found,
            quotes={quote.pool.id: quote for quote in found.quotes},
            covering=self._covering["" if alike.tier is Tier.SPARE else share],
            borrows=may and alike.tier is not Tier.RESERVED,
            hold_most=dearest.hold(alike.occupied_ms) if dearest else 0,
            look=self._looks.setdefault(look, len(self._looks)),
        )

    def _demand(self, kind: Kind) -> Demand:
        wants = self._wanted(kind.found)
        nodes = kind.alike.resources.nodes
        key = (
            nodes,
            wants,
            kind.borrows,
            kind.alike.occupied_ms,
            kind.alike if kind.apart else None,
        )
        demand = self._demands.get(key)
        if demand is None:
            offers = []
            for quote, (_, slots, place) in zip(kind.found.quotes, wants, strict=True):
                lane = self._lanes[quote.pool.id]
                offers.append(Offer(lane, nodes, slots, place))
            demand = self._demands[key] = Demand(len(self._demands), nodes, tuple(offers))
            demand.borrows = kind.borrows
        return demand

    def _wanted(self, found: Eligible) -> tuple[tuple[int, int, int], ...]:
        """The lanes that may run it, the slots of each node and the lane's place by price."""
        wants = self._wants.get(id(found))
        if wants is None:
            rates = {quote.rate for quote in found.quotes}
            rank = {rate: place for place, rate in enumerate(sorted(rates))}
            wants = self._wants[id(found)] = tuple(
                (self._lanes[quote.pool.id].index, quote.slots, rank[quote.rate])
                for quote in found.quotes
            )
        return wants

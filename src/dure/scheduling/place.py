"""One request at a time: where it starts now, or what it waits for.

A `Pass` is the working state of one call of `schedule`: it begins as the world is, and each
decision changes what the next one sees. `place` is the decision, step by step.
"""

from __future__ import annotations

from dataclasses import dataclass

from dure.errors import Reason
from dure.jobs import Resources, Tier
from dure.policy import EXCLUDED_BY_RULE
from dure.scheduling import explain
from dure.scheduling.backfill import Lane, Release, Shadow
from dure.scheduling.budget import Budgets
from dure.scheduling.eligible import Eligible, Offer, eligible
from dure.scheduling.explain import Outlook
from dure.scheduling.fit import Fit
from dure.scheduling.world import (
    Occupation,
    Placement,
    Request,
    Reservation,
    Wait,
    World,
)


@dataclass(frozen=True, slots=True)
class Alike:
    """What decides where a task can start: tasks alike in this fare alike in one pass."""

    allocation: str
    project: str
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
            request.resources,
            request.occupied_ms,
            request.data_class,
            request.tier,
        )


class Pass:
    """What is free, what is left and what has been decided, so far."""

    __slots__ = ("_blocked", "_budgets", "_eligible", "_lanes", "_world", "reservations")

    def __init__(self, world: World) -> None:
        self._world = world
        occupations: dict[str, list[Occupation]] = {}
        for held in world.occupations:
            occupations.setdefault(held.pool_id, []).append(held)
        self._lanes = {
            state.pool.id: Lane(state, occupations.get(state.pool.id, ()), world.now_ms)
            for state in world.pools
        }
        self._budgets = Budgets(world)
        self._eligible: dict[Alike, Eligible] = {}
        self._blocked: dict[Alike, Reason] = {}
        self.reservations: list[Reservation] = []

    def place(self, request: Request) -> Placement | Wait:
        """Decide one request, the next in the queue, and carry the decision into this pass."""
        # 1. May it start at all: its allocation's window, its array's cap?
        if obstacle := self._budgets.obstacle(request):
            return _wait(request, obstacle)
        # 2. Which pools may run it, and which of them can its allocation carry?
        possible = self.eligible(request)
        if not possible.offers:
            return _wait(request, explain.nowhere(request, _barred(possible)))
        shortfalls = [self._budgets.shortfall(request, offer) for offer in possible.offers]
        offers = [
            offer for offer, short in zip(possible.offers, shortfalls, strict=True) if short is None
        ]
        if not offers:
            cheapest = min(range(len(shortfalls)), key=lambda at: possible.offers[at].hold)
            short = shortfalls[cheapest]
            assert short is not None
            return _wait(request, short)
        # 3. Room only shrinks during a pass: where its like found none, it finds none.
        if blocked := self._blocked.get(Alike.of(request)):
            return _wait(request, blocked)
        # 4. Where can it start now? Cheapest first, then tightest, then by name.
        starts = [(offer, fit) for offer in offers if (fit := self.fit(request, offer))]
        if starts:
            starts.sort(key=lambda start: (start[0].hold, start[1].leftover, start[0].pool.id))
            return self._start(request, possible, starts)
        # 5. Nowhere: keep nodes for it where it can start soonest.
        return self._block(request, possible, offers)

    def eligible(self, request: Request) -> Eligible:
        """`eligible.eligible`, once for all tasks alike. The allocation must be known."""
        key = Alike.of(request)
        if key not in self._eligible:
            allocation = self._budgets.allocation(request)
            assert allocation is not None
            self._eligible[key] = eligible(self._world, request, allocation)
        return self._eligible[key]

    def may_start(self, request: Request, offer: Offer) -> bool:
        """Whether nothing but room stands in the way of this offer."""
        if self._budgets.obstacle(request):
            return False
        return self._budgets.shortfall(request, offer) is None

    def fit(self, request: Request, offer: Offer) -> Fit | None:
        """Nodes where it could start now."""
        ends_ms = self._world.now_ms + request.occupied_ms
        return self._lanes[offer.pool.id].fit(offer.nodes, offer.slots, ends_ms)

    def shadow(self, offer: Offer) -> Shadow | None:
        """When and where it could start in a pool that keeps no nodes yet."""
        lane = self._lanes[offer.pool.id]
        return None if lane.reservation else lane.shadow(offer.nodes, offer.slots)

    def _start(
        self, request: Request, possible: Eligible, starts: list[tuple[Offer, Fit]]
    ) -> Placement:
        offer, fit = starts[0]
        lane = self._lanes[offer.pool.id]
        ahead = None
        if lane.reservation:
            until_ms = lane.reservation.starts_ms if lane.uses_kept(fit) else None
            ahead = explain.ahead_of(lane.head_job_id, until_ms=until_ms)
        why = "; ".join((_why_there(possible, starts), *_rules(possible)))
        ends_ms = self._world.now_ms + request.occupied_ms
        lane.take(fit, Release(ends_ms, request.job_id, fit.nodes, offer.slots))
        self._budgets.start(request, offer)
        where = f"{offer.pool.id} of {offer.pool.operator_id}"
        return Placement(
            task_id=request.task_id,
            job_id=request.job_id,
            pool_id=offer.pool.id,
            nodes=fit.nodes,
            slots_per_node=offer.slots,
            hold=offer.hold,
            hold_gpu_ms=offer.hold_gpu_ms,
            reason=explain.placed(request, where, why, ahead),
        )

    def _block(self, request: Request, possible: Eligible, offers: list[Offer]) -> Wait:
        shadows = {offer.pool.id: self.shadow(offer) for offer in offers}
        soonest = min(
            (
                (shadow.starts_ms, offer.hold, offer.pool.id, offer, shadow)
                for offer in offers
                if (shadow := shadows[offer.pool.id])
            ),
            key=lambda option: option[:3],
            default=None,
        )
        outlooks = [self._outlook(request, offer, shadows[offer.pool.id]) for offer in offers]
        rules = _rules(possible)
        if soonest is None:  # nor will a pool be free to keep nodes for those alike
            reason = explain.blocked(request, outlooks, None, rules)
            self._blocked[Alike.of(request)] = reason
            return _wait(request, reason)
        *_, offer, shadow = soonest
        reservation = Reservation(
            task_id=request.task_id,
            pool_id=offer.pool.id,
            nodes=shadow.nodes,
            slots_per_node=offer.slots,
            starts_ms=shadow.starts_ms,
        )
        self._lanes[offer.pool.id].keep(reservation, request.job_id)
        self.reservations.append(reservation)
        self._budgets.set_aside(request, offer)
        return _wait(request, explain.blocked(request, outlooks, offer.pool.id, rules))

    def _outlook(self, request: Request, offer: Offer, shadow: Shadow | None) -> Outlook:
        lane = self._lanes[offer.pool.id]
        free = lane.room(offer.slots, self._world.now_ms + request.occupied_ms)
        head = lane.reservation
        return Outlook(
            pool_id=offer.pool.id,
            silent=lane.state.silent,
            up=lane.up,
            free=free,
            kept_free=lane.free(offer.slots) - free,
            kept_for_job_id=lane.head_job_id if head else None,
            kept_ms=head.starts_ms if head else 0,
            next_ms=shadow.next_ms if shadow else None,
            next_job_id=shadow.next_job_id if shadow else 0,
            starts_ms=shadow.starts_ms if shadow else 0,
        )


def _wait(request: Request, reason: Reason) -> Wait:
    return Wait(task_id=request.task_id, job_id=request.job_id, reason=reason)


def _barred(possible: Eligible) -> tuple[str, ...]:
    return explain.clauses((bar.exclusion.pool_id, bar.clause) for bar in possible.bars)


def _rules(possible: Eligible) -> tuple[str, ...]:
    """The pools that a rule forbids: worth a word even where another pool is chosen."""
    return explain.clauses(
        (bar.exclusion.pool_id, bar.clause)
        for bar in possible.bars
        if bar.exclusion.reason.code == EXCLUDED_BY_RULE
    )


def _why_there(possible: Eligible, starts: list[tuple[Offer, Fit]]) -> str:
    allowed = len(possible.offers)
    if allowed == 1:
        return "the only pool that may run it"
    if len(starts) == 1:
        return f"the only one of {allowed} allowed pools with room now"
    (offer, fit), (next_offer, next_fit) = starts[:2]
    if offer.hold < next_offer.hold:
        why = "cheapest"
    elif fit.leftover < next_fit.leftover:
        why = "tightest fit"
    else:
        why = "first by name"
    return f"{why} of {len(starts)} with room now, of {explain.count(allowed, 'allowed pool')}"

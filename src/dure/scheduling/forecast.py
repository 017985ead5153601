"""What would happen to a request: where, when, for how much at most, and why not elsewhere.

Start times come from running the pass forward on a copy of the world, with everything ending at its
limit and nothing new arriving: an upper bound for those who stand ahead, no promise. What runs
past its limit is taken to end at once, and prices stay as they are now.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from dure.errors import Reason, RefusedError
from dure.fleet import Pool
from dure.policy import check_data_class
from dure.scheduling import explain
from dure.scheduling.budget import Budgets
from dure.scheduling.eligible import Eligible, Offer, eligible
from dure.scheduling.order import in_order, turn
from dure.scheduling.place import Pass
from dure.scheduling.world import (
    NEVER_MS,
    AllocationState,
    Forecast,
    Occupation,
    Option,
    Placement,
    Request,
    Wait,
    World,
)

_STEPS_MAX: Final = 1_000
_FINEST: Final = 64
_COARSEST: Final = 4
_FINENESS_BY_QUEUE: Final = 25_000
"""A step goes past one in so many of the ends to come (25,000 through the queue's length, from 4 to
64), so a crowded nation takes dozens of steps and a small one a step for each end."""

_MAY_PASS: Final = frozenset(
    {
        explain.WAITING_FOR_NODES,
        explain.HOLDS_RESERVATION,
        explain.BEHIND_RESERVATION,
        explain.ALLOCATION_GPUS_IN_USE,
        explain.ALLOCATION_WINDOW,
        explain.ARRAY_CAP,
    }
)
"""Waits that pass with time alone. Nothing is foreseen for others, so they keep nobody back."""


def forecast(world: World, request: Request) -> Forecast:
    """What `dure plan` answers about a request that is not in the world. Commits nothing."""
    allocation = Budgets(world).allocation(request)
    if allocation is None:
        return Forecast(options=(), exclusions=(), refusal=explain.unknown_allocation(request))
    possible = eligible(world, request, allocation)
    refused = _refusal(world, request, possible)
    starts = {} if refused else _starts(world, request, possible.offers)
    options = [
        Option(
            pool_id=offer.pool.id,
            operator_id=offer.pool.operator_id,
            gpu_model=offer.pool.gpu_model,
            starts_ms=starts.get(offer.pool.id),
            hold=offer.hold,
        )
        for offer in possible.offers
    ]
    return Forecast(
        options=tuple(sorted(options, key=_soonest)),
        exclusions=tuple(bar.exclusion for bar in possible.bars),
        refusal=refused,
    )


def refusal(world: World, request: Request) -> Reason | None:
    """Why the request must be refused at submission: it could never run. None where it could.

    An array is judged by one of its tasks: all of them need not be held at once.
    """
    allocation = Budgets(world).allocation(request)
    if allocation is None:
        return explain.unknown_allocation(request)
    return _refusal(world, request, eligible(world, request, allocation))


def _refusal(world: World, request: Request, possible: Eligible) -> Reason | None:
    budgets = Budgets(world)
    allocation = budgets.allocation(request)
    assert allocation is not None
    try:
        check_data_class(world.rules, request.data_class)
    except RefusedError as unknown:
        return unknown.reason
    if no_such := _no_such_nodes(request, [state.pool for state in world.pools]):
        return no_such
    obstacle = budgets.obstacle(request)
    if obstacle and obstacle.code == explain.WALLTIME_BEYOND_WINDOW:
        return obstacle
    if not possible.offers:
        return _nowhere(request, possible)
    shortfalls = [
        short
        for offer in sorted(possible.offers, key=lambda offer: (offer.hold, offer.gpus))
        if (short := budgets.shortfall(request, offer))
    ]
    forever = {explain.CAPACITY_TOO_SMALL, explain.ALLOCATION_TOO_SMALL}
    if len(shortfalls) == len(possible.offers) and all(s.code in forever for s in shortfalls):
        return shortfalls[0]
    return None


def _no_such_nodes(request: Request, pools: list[Pool]) -> Reason | None:
    """No pool of the nation has such GPUs, or so much in a node; it names the most there is."""
    asked = request.resources
    models = asked.gpu_models
    right = [pool for pool in pools if not models or pool.gpu_model in models]
    if not right:
        there = sorted({pool.gpu_model.upper() for pool in pools})
        return Reason(
            explain.NO_SUCH_GPUS,
            f"Asks for {explain.either(models) or 'GPUs'}; "
            f"the pools have {explain.listed(there) or 'none at all'}.",
        )
    largest = max(sorted(right, key=lambda pool: pool.id), key=lambda pool: pool.gpus_per_node)
    if asked.gpus_per_node > largest.gpus_per_node:
        return Reason(
            explain.NO_SUCH_GPUS,
            f"Asks for {asked.gpus_per_node:,} GPUs a node; the largest nodes, "
            f"in {largest.id}, have {largest.gpus_per_node:,}.",
        )
    for need, unit, has in (
        (asked.cpus_per_node, "CPUs", max(pool.cpus_per_node for pool in right)),
        (asked.memory_gib_per_node, "GiB", max(pool.memory_gib_per_node for pool in right)),
    ):
        if need is not None and need > has:
            return Reason(
                explain.NO_SUCH_NODE,
                f"Asks for {need:,} {unit} a node; the most that one has is {has:,}.",
            )
    return None


def _nowhere(request: Request, possible: Eligible) -> Reason:
    barred = explain.clauses((bar.exclusion.pool_id, bar.clause) for bar in possible.bars)
    if any(bar.exclusion.reason.code == explain.POOL_TOO_SMALL for bar in possible.bars):
        return Reason(
            explain.TOO_LARGE,
            f"Asks for {explain.shape(request.resources)}; {'; '.join(barred)}.",
        )
    return explain.nowhere(request, barred)


def _soonest(option: Option) -> tuple[bool, int, int, str]:
    return (option.starts_ms is None, option.starts_ms or 0, option.hold, option.pool_id)


def _starts(world: World, request: Request, offers: tuple[Offer, ...]) -> dict[str, int]:
    """When each offer could start behind those ahead in the queue. Those behind cannot delay it."""
    found: dict[str, int] = {}
    ahead = in_order(other for other in world.requests if turn(other) < turn(request))
    world = replace(world, requests=ahead)
    for _ in range(_STEPS_MAX):
        state = Pass(world)
        outcomes = [state.place(other) for other in ahead]
        waiting = {
            outcome.task_id
            for outcome in outcomes
            if isinstance(outcome, Wait) and outcome.reason.code in _MAY_PASS
        }
        for offer in offers:
            if offer.pool.id in found or not state.may_start(request, offer):
                continue
            if state.fit(request, offer):
                found[offer.pool.id] = world.now_ms
            elif not waiting and (shadow := state.shadow(offer)):
                found[offer.pool.id] = shadow.starts_ms
        placements = [outcome for outcome in outcomes if isinstance(outcome, Placement)]
        ahead = tuple(other for other in ahead if other.task_id in waiting)
        later = _later(replace(_started(world, placements), requests=ahead), request)
        if len(found) == len(offers) or later is None:
            break
        world = later
    return found


def _started(world: World, placements: Iterable[Placement]) -> World:
    """The world with these placements running, each to its limit and for all of its hold."""
    requests = {request.task_id: request for request in world.requests}
    occupations = list(world.occupations)
    spent: dict[str, int] = {}
    for placed in placements:
        request = requests[placed.task_id]
        spent[request.allocation] = spent.get(request.allocation, 0) + placed.hold
        occupations.append(
            Occupation(
                attempt_id=f"forecast-{placed.task_id}",
                task_id=placed.task_id,
                job_id=placed.job_id,
                pool_id=placed.pool_id,
                nodes=placed.nodes,
                slots_per_node=placed.slots_per_node,
                gpus=request.resources.gpus,
                allocation=request.allocation,
                ends_ms=world.now_ms + request.occupied_ms,
            )
        )
    allocations = tuple(
        _less(state, spent.get(state.allocation.id, 0)) for state in world.allocations
    )
    return replace(world, occupations=tuple(occupations), allocations=allocations)


def _less(state: AllocationState, spent: int) -> AllocationState:
    return replace(state, available=state.available - spent, held=state.held + spent)


def _later(world: World, request: Request) -> World | None:
    """The world at the next step: some ends later, or where a window opens. None: nothing comes."""
    ends = sorted(
        {
            max(held.ends_ms, world.now_ms + 1)
            for held in world.occupations
            if held.ends_ms < NEVER_MS
        }
    )
    waited_for = {request.allocation, *(other.allocation for other in world.requests)}
    opens = [
        state.allocation.starts_ms
        for state in world.allocations
        if state.allocation.id in waited_for and state.allocation.starts_ms > world.now_ms
    ]
    fineness = min(_FINEST, max(_COARSEST, _FINENESS_BY_QUEUE // (1 + len(world.requests))))
    steps = [*ends[max(0, len(ends) // fineness - 1) :][:1], *opens]
    if not steps:
        return None
    now_ms = min(steps)
    running = tuple(held for held in world.occupations if held.ends_ms > now_ms)
    return replace(world, now_ms=now_ms, occupations=running)

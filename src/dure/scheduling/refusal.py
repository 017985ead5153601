"""What submission says no with: why a request could never run, as the world is."""

from __future__ import annotations

from typing import Final

from dure.errors import Reason, RefusedError
from dure.fleet import Pool
from dure.policy import check_data_class
from dure.scheduling import explain
from dure.scheduling.budget import Budgets
from dure.scheduling.eligible import Eligible, eligible
from dure.scheduling.world import Request, World

_FOREVER: Final = frozenset(
    {explain.CAPACITY_TOO_SMALL, explain.ALLOCATION_TOO_SMALL, explain.SHARE_TOO_SMALL}
)
"""Shortfalls that do not pass."""


def refusal(world: World, request: Request) -> Reason | None:
    """Why the request must be refused at submission: it could never run. None where it could.

    An array is judged by one of its tasks: all of them need not be held at once.
    """
    allocation = Budgets(world).allocation(request)
    if allocation is None:
        return explain.unknown_allocation(request)
    return refused(world, request, eligible(world, request, allocation))


def refused(world: World, request: Request, possible: Eligible) -> Reason | None:
    """`refusal`, where it is known already which pools may run it and its allocation is there."""
    budgets = Budgets(world)
    allocation = budgets.allocation(request)
    assert allocation is not None
    try:
        check_data_class(world.rules, request.data_class)
    except RefusedError as unknown:
        return unknown.reason
    if no_such := _no_such_nodes(request, [state.pool for state in world.pools]):
        return no_such
    obstacle = budgets.kinds_obstacle(request)
    if obstacle and obstacle.code == explain.WALLTIME_BEYOND_WINDOW:
        return obstacle
    if not possible.quotes:
        return _nowhere(request, possible)
    shortfalls = [
        budgets.shortfall(request, quote)
        for quote in sorted(possible.quotes, key=lambda quote: (quote.rate, quote.gpus))
    ]
    if all(short is not None and short.code in _FOREVER for short in shortfalls):
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
    barred = possible.barred
    if any(bar.exclusion.reason.code == explain.POOL_TOO_SMALL for bar in possible.bars):
        return Reason(
            explain.TOO_LARGE,
            f"Asks for {explain.shape(request.resources)}; {'; '.join(barred)}.",
        )
    return explain.nowhere(request, barred)

"""Where a request may run at all, now or later: rules, GPU model, allocation, node, size, price.

A pool that may not is barred with its reason; one that may becomes an offer with what it would
cost. Whether there is room is not asked here.
"""

from __future__ import annotations

from dataclasses import dataclass

from dure import ledger, metering, policy
from dure.allocations import Allocation, BudgetUnit
from dure.errors import Reason, RefusedError
from dure.fleet import Pool
from dure.scheduling import explain
from dure.scheduling.world import Exclusion, PoolState, Request, World


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A pool that may run a request: the slots it takes there, and the most it would cost.

    `hold` is in the allocation's unit, priced as of the world's instant.
    """

    pool: Pool
    nodes: int
    slots: int
    hold: int
    hold_gpu_ms: int

    @property
    def gpus(self) -> int:
        """The GPUs it occupies: those it uses and those whose CPUs or memory it takes."""
        return self.nodes * self.slots


@dataclass(frozen=True, slots=True)
class Bar:
    """A pool that may not run a request. `clause` goes on after the pool's name in a list."""

    exclusion: Exclusion
    clause: str


@dataclass(frozen=True, slots=True)
class Eligible:
    """Every pool of the world, offered or barred, each in id order."""

    offers: tuple[Offer, ...]
    bars: tuple[Bar, ...]


def eligible(world: World, request: Request, allocation: Allocation) -> Eligible:
    """Which pools may run the request on this allocation."""
    offers: list[Offer] = []
    bars: list[Bar] = []
    for state in sorted(world.pools, key=lambda state: state.pool.id):
        answer = _consider(world, request, allocation, state)
        if isinstance(answer, Bar):
            bars.append(answer)
        else:
            offers.append(answer)
    return Eligible(tuple(offers), tuple(bars))


def slots_per_node(request: Request, pool: Pool) -> int:
    """The slots that the request takes of each node: the largest share of GPUs, CPUs and memory,
    in whole GPUs.

    Source: Isambard-AI's accounting charges max(GPU, CPU, memory share), smallest unit one GPU
    (docs.isambard.ac.uk, guides/accounting).
    """
    asked, gpus = request.resources, pool.gpus_per_node
    return max(
        asked.gpus_per_node,
        -(-(asked.cpus_per_node or 0) * gpus // pool.cpus_per_node),
        -(-(asked.memory_gib_per_node or 0) * gpus // pool.memory_gib_per_node),
    )


def most_nodes(state: PoolState, from_ms: int, until_ms: int) -> int:
    """The most nodes that the pool has, or is planned to have, in that window."""
    starts = {start.at_ms for wave in state.pool.waves for start in wave.phases}
    planned = (state.pool.nodes_in_service(at_ms) for at_ms in starts if from_ms < at_ms < until_ms)
    return max(len(state.nodes), state.pool.nodes_in_service(from_ms), *planned, 0)


def _consider(
    world: World, request: Request, allocation: Allocation, state: PoolState
) -> Offer | Bar:
    pool = state.pool
    barred = (
        _barred_by_rule(world, request, pool)
        or _barred_by_model(request, pool)
        or _barred_by_allocation(allocation, pool)
        or _barred_by_node(request, pool)
    )
    if barred:
        return barred
    most = most_nodes(state, world.now_ms, allocation.ends_ms)
    if most < request.resources.nodes:
        return _bar(
            pool,
            explain.POOL_TOO_SMALL,
            f"has at most {explain.count(most, 'node')} while allocation {allocation.id} lasts, "
            f"not {request.resources.nodes:,}",
        )
    return _priced(world, request, allocation, pool)


def _barred_by_rule(world: World, request: Request, pool: Pool) -> Bar | None:
    try:
        verdict = policy.verdict(world.rules, request.data_class, pool)
    except RefusedError as unknown:  # a class that an earlier version of the rules had
        exclusion = Exclusion(pool_id=pool.id, operator_id=pool.operator_id, reason=unknown.reason)
        return Bar(exclusion, f"cannot be judged: no rules know data class '{request.data_class}'")
    if isinstance(verdict, policy.Allowed):
        return None
    exclusion = Exclusion(pool_id=pool.id, operator_id=pool.operator_id, reason=verdict.reason)
    return Bar(exclusion, f"excluded by rule '{verdict.rule_id}'")


def _barred_by_model(request: Request, pool: Pool) -> Bar | None:
    models = request.resources.gpu_models
    if not models or pool.gpu_model in models:
        return None
    asked = explain.either(models)
    return _bar(pool, explain.OTHER_GPU_MODEL, f"has {pool.gpu_model.upper()}, not {asked}")


def _barred_by_allocation(allocation: Allocation, pool: Pool) -> Bar | None:
    if allocation.pool not in {None, pool.id}:
        clause = f"is not pool {allocation.pool}, which allocation {allocation.id} is for"
    elif allocation.gpu_model not in {None, pool.gpu_model}:
        model = (allocation.gpu_model or "").upper()
        clause = f"has {pool.gpu_model.upper()}; allocation {allocation.id} is for {model}"
    else:
        return None
    return _bar(pool, explain.OUTSIDE_ALLOCATION, clause)


def _barred_by_node(request: Request, pool: Pool) -> Bar | None:
    asked = request.resources
    if asked.gpus_per_node > pool.gpus_per_node:
        clause = f"has {pool.gpus_per_node:,} GPUs a node, not {asked.gpus_per_node:,}"
    elif (asked.cpus_per_node or 0) > pool.cpus_per_node:
        clause = f"has {pool.cpus_per_node:,} CPUs a node, not {asked.cpus_per_node:,}"
    elif (asked.memory_gib_per_node or 0) > pool.memory_gib_per_node:
        clause = f"has {pool.memory_gib_per_node:,} GiB a node, not {asked.memory_gib_per_node:,}"
    else:
        return None
    return _bar(pool, explain.NODE_TOO_SMALL, clause)


def _priced(world: World, request: Request, allocation: Allocation, pool: Pool) -> Offer | Bar:
    slots = slots_per_node(request, pool)
    hold_gpu_ms = slots * request.resources.nodes * request.occupied_ms
    hold = hold_gpu_ms
    if allocation.unit is BudgetUnit.UCREDIT:
        try:
            factors = metering.factors(
                world.tariff,
                pool.gpu_model,
                request.tier,
                pool.operator_id,
                world.now_ms,
                allocation.subsidy_milli,
            )
            hold = ledger.hold_amount(allocation.unit, hold_gpu_ms, factors)
        except ValueError as no_price:
            return _bar(pool, explain.NO_PRICE, f"has no price: {no_price}")
    return Offer(
        pool=pool,
        nodes=request.resources.nodes,
        slots=slots,
        hold=hold,
        hold_gpu_ms=hold_gpu_ms,
    )


def _bar(pool: Pool, code: str, clause: str) -> Bar:
    reason = Reason(code, f"Pool {pool.id} of {pool.operator_id} {clause}.")
    return Bar(Exclusion(pool_id=pool.id, operator_id=pool.operator_id, reason=reason), clause)

"""Where a request may run at all, now or later: rules, GPU model, allocation, node, size, price.

A pool that may not is barred with its reason; one that may gives a quote. Whether there is room is
not asked here. Nothing of an answer depends on how long the task runs, or on what runs now; so one
answer serves all that ask alike (`Quotes`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from dure import ledger, metering, policy
from dure.allocations import Allocation, BudgetUnit
from dure.errors import Reason, RefusedError
from dure.fleet import Pool
from dure.metering import Factors
from dure.scheduling import explain
from dure.scheduling.world import Exclusion, PoolState, Request, World
from dure.units import INSTANT_MS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A pool that may run a request: the slots that it takes of each node there, and the price.

    `factors` are those of the world's instant; None where the budget is in GPU time itself.
    """

    pool: Pool
    nodes: int
    slots: int
    factors: Factors | None
    rate: int
    """What a millisecond costs, on a scale on which the quotes of one request compare."""
    _holds: dict[int, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def gpus(self) -> int:
        """The GPUs it occupies: those it uses and those whose CPUs or memory it takes."""
        return self.nodes * self.slots

    def hold_gpu_ms(self, occupied_ms: int) -> int:
        """The GPU time of so many milliseconds."""
        return self.gpus * occupied_ms

    def hold(self, occupied_ms: int) -> int:
        """The most that so many milliseconds cost, in the allocation's unit."""
        if self.factors is None:
            return self.hold_gpu_ms(occupied_ms)
        hold = self._holds.get(occupied_ms)
        if hold is None:
            gpu_ms = self.hold_gpu_ms(occupied_ms)
            hold = ledger.hold_amount(BudgetUnit.UCREDIT, gpu_ms, self.factors)
            self._holds[occupied_ms] = hold
        return hold


@dataclass(frozen=True, slots=True)
class Bar:
    """A pool that may not run a request. `clause` goes on after the pool's name in a list."""

    exclusion: Exclusion
    clause: str


@dataclass(frozen=True)
class Eligible:
    """Every pool of the world, quoted or barred, each in id order."""

    quotes: tuple[Quote, ...]
    bars: tuple[Bar, ...]

    @cached_property
    def by_rule(self) -> tuple[str, ...]:
        """The pools that a rule forbids: worth a word even where another pool is chosen."""
        return explain.clauses(
            (bar.exclusion.pool_id, bar.clause)
            for bar in self.bars
            if bar.exclusion.reason.code == policy.EXCLUDED_BY_RULE
        )

    @property
    def barred(self) -> tuple[str, ...]:
        """All pools that may not run it, and why."""
        return explain.clauses((bar.exclusion.pool_id, bar.clause) for bar in self.bars)


def eligible(world: World, request: Request, allocation: Allocation) -> Eligible:
    """Which pools may run the request on this allocation."""
    quotes: list[Quote] = []
    bars: list[Bar] = []
    for state in sorted(world.pools, key=lambda state: state.pool.id):
        answer = _consider(world, request, allocation, state)
        if isinstance(answer, Bar):
            bars.append(answer)
        else:
            quotes.append(answer)
    return Eligible(tuple(quotes), tuple(bars))


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
) -> Quote | Bar:
    pool = state.pool
    barred = (
        _barred_by_rule(world, request, pool)
        or _barred_by_pin(request, pool)
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


def _barred_by_pin(request: Request, pool: Pool) -> Bar | None:
    pins = request.resources.pools
    if not pins or pool.id in pins:
        return None
    return _bar(pool, explain.OTHER_POOL, f"is not {' or '.join(pins)}, where the job is pinned")


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


def _priced(world: World, request: Request, allocation: Allocation, pool: Pool) -> Quote | Bar:
    priced_by = None
    if allocation.unit is BudgetUnit.UCREDIT:
        try:
            priced_by = metering.factors(
                world.tariff,
                pool.gpu_model,
                request.tier,
                pool.operator_id,
                world.now_ms,
                allocation.subsidy_milli,
            )
        except ValueError as no_price:
            return _bar(pool, explain.NO_PRICE, f"has no price: {no_price}")
    slots = slots_per_node(request, pool)
    rate = slots * request.resources.nodes
    if priced_by is not None:
        rate *= priced_by.weight_milli * priced_by.tier_milli * priced_by.operator_price_milli
    return Quote(
        pool=pool,
        nodes=request.resources.nodes,
        slots=slots,
        factors=priced_by,
        rate=rate,
    )


def _bar(pool: Pool, code: str, clause: str) -> Bar:
    reason = Reason(code, f"Pool {pool.id} of {pool.operator_id} {clause}.")
    return Bar(Exclusion(pool_id=pool.id, operator_id=pool.operator_id, reason=reason), clause)


class Quotes:
    """`eligible`, asked once for all requests that cannot be answered differently.

    Good for as long as rules, tariff, pools and the waves in service stay as they are.
    """

    __slots__ = ("_barred", "_found", "_grown", "_now", "_world")

    def __init__(self, world: World) -> None:
        self._world = world
        self._found: dict[tuple[object, ...], Eligible] = {}
        self._barred: dict[tuple[object, ...], Reason] = {}
        self._now = [most_nodes(state, world.now_ms, world.now_ms) for state in world.pools]
        self._grown = [most_nodes(state, world.now_ms, INSTANT_MS_MAX) for state in world.pools]

    def of(self, request: Request, allocation: Allocation) -> Eligible:
        """Which pools may run it. Only the quotes and what rules forbid are this request's own: a
        bar that names an allocation may name another one.
        """
        nodes = request.resources.nodes
        grows = any(now < nodes <= grown for now, grown in zip(self._now, self._grown, strict=True))
        key = (
            request.resources,
            request.data_class,
            request.tier,
            allocation.unit,
            allocation.subsidy_milli,
            allocation.pool,
            allocation.gpu_model,
            allocation.ends_ms if grows else 0,
        )
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = eligible(self._world, request, allocation)
        return found

    def nowhere(self, request: Request, allocation: Allocation) -> Reason:
        """Why no pool may run it on its very allocation."""
        key = (allocation.id, request.resources, request.data_class, request.tier)
        found = self._barred.get(key)
        if found is None:
            barred = eligible(self._world, request, allocation).barred
            found = self._barred[key] = explain.nowhere(request, barred)
        return found

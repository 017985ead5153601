"""What would happen to a request: where, when, for how much at most, and why not elsewhere.

Start times come from running the scheduler forward on a board of its own (`trial`); how sure they
are is what `foresight` has learned from those that came true.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from dure.scheduling import explain
from dure.scheduling.budget import Budgets
from dure.scheduling.eligible import Quote, eligible
from dure.scheduling.foresight import Foresight
from dure.scheduling.refusal import refused
from dure.scheduling.trial import Trial
from dure.scheduling.world import Forecast, Option, Request, World


def forecast(world: World, request: Request, foresight: Foresight | None = None) -> Forecast:
    """What `dure plan` answers about a request that is not in the world. Commits nothing."""
    allocation = Budgets(world).allocation(request)
    if allocation is None:
        return Forecast(options=(), exclusions=(), refusal=explain.unknown_allocation(request))
    possible = eligible(world, request, allocation)
    no = refused(world, request, possible)
    starts: Mapping[str, int] = {}
    if no is None:
        others = tuple(other for other in world.requests if other.task_id != request.task_id)
        trial = Trial(replace(world, requests=others))
        starts = trial.probe(request, [quote.pool.id for quote in possible.quotes])
    sure = foresight or Foresight()
    options = [
        _option(quote, request, starts.get(quote.pool.id), (world.now_ms, sure))
        for quote in possible.quotes
    ]
    return Forecast(
        options=tuple(sorted(options, key=_soonest)),
        exclusions=tuple(bar.exclusion for bar in possible.bars),
        refusal=no,
    )


def foreseen_starts(world: World, task_ids: Collection[int]) -> Mapping[int, int]:
    """When these tasks of the queue start if nothing new comes, in ms, all in one run; those that
    are not foreseen to are left out.
    """
    return Trial(world).starts(task_ids)


def _option(
    quote: Quote, request: Request, starts_ms: int | None, sure: tuple[int, Foresight]
) -> Option:
    option = Option(
        pool_id=quote.pool.id,
        operator_id=quote.pool.operator_id,
        gpu_model=quote.pool.gpu_model,
        starts_ms=starts_ms,
        hold=quote.hold(request.occupied_ms),
    )
    if starts_ms is None:
        return option
    now_ms, foresight = sure
    said = foresight.estimate(now_ms, starts_ms)
    return replace(
        option,
        likely_from_ms=said.likely_from_ms,
        likely_until_ms=said.likely_until_ms,
        surely_from_ms=said.surely_from_ms,
        surely_until_ms=said.surely_until_ms,
    )


def _soonest(option: Option) -> tuple[bool, int, int, str]:
    return (option.starts_ms is None, option.starts_ms or 0, option.hold, option.pool_id)

"""Awards become shares: each project below its programme, its capacity allocations below it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from dure.allocations import Allocation, AllocationKind
from dure.fleet import Pool
from dure.metering import Tariff, weight_milli
from dure.shares.promises import ALL, Guarantee, promised
from dure.shares.steps import Steps
from dure.shares.tree import NATIONAL, Share, ShareKind, Shares
from dure.units import MILLI, MS_PER_HOUR, UCREDIT_PER_CREDIT


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A capacity allocation that its programme cannot cover: `gpus` of it, of `asked_gpus`."""

    allocation: str
    asked_gpus: int
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Awards:
    """What projects hold, and what it is measured by.

    `pools` say which model a pool has, `tariff` what a model is worth.
    """

    allocations: tuple[Allocation, ...]
    pools: tuple[Pool, ...]
    tariff: Tariff


def with_allocations(
    shares: Shares, awards: Awards, now_ms: int, programme: str = NATIONAL
) -> tuple[Shares, tuple[Shortfall, ...]]:
    """The tree with each project below the programme, and its capacity allocations below it.

    Project `p` is the share `national.p`, its allocation `a` the share `national.p.a`. A project
    weighs what it was awarded and may use now, as an average number of H100 equivalents: credits of
    an `hours` allocation over its window, GPUs times their weight of a `capacity` allocation. Those
    that have ended by `now_ms` are left out.

    Who starts first is covered first (then by id): of a later one that the programme's guarantee
    cannot cover in its whole window, only what can be is guaranteed, and the rest reported. An
    allocation in a pool is covered only where the programme is promised that pool by name. A
    programme that the tree does not have is added, with no guarantee.

    Raises:
        ValueError: the tree has a share of such an id already, or the tariff no such model.
    """
    live = sorted(
        (one for one in awards.allocations if one.ends_ms > now_ms),
        key=lambda one: (one.starts_ms, one.id),
    )
    tree = shares if programme in shares.by_id else _with_root(shares, programme)
    left = _Left(tree, programme, awards.pools)
    weights: dict[str, int] = {}
    leaves: list[Share] = []
    of_project: dict[str, list[Guarantee]] = {}
    short: list[Shortfall] = []
    for one in live:
        weight = _worth_milli(one, awards.tariff) if one.starts_ms <= now_ms else 0
        weights[one.project] = weights.get(one.project, 0) + weight
        if one.kind is not AllocationKind.CAPACITY:
            continue
        asked = one.gpus or 0
        if (gpus := left.take(one)) < asked:
            short.append(Shortfall(one.id, asked, gpus))
        guaranteed = _guarantees(one, gpus)
        of_project.setdefault(one.project, []).extend(guaranteed)
        leaves.append(
            Share(
                id=leaf_of(one, programme),
                kind=ShareKind.ALLOCATION,
                parent=share_of_project(one.project, programme),
                guarantees=guaranteed,
            )
        )
    projects = [
        Share(
            id=share_of_project(project, programme),
            kind=ShareKind.PROJECT,
            parent=programme,
            weight_milli=max(1, weight),
            guarantees=tuple(of_project.get(project, ())),
        )
        for project, weight in sorted(weights.items())
    ]
    return Shares((*tree.shares, *projects, *leaves)), tuple(short)


def leaf_of(allocation: Allocation, programme: str = NATIONAL) -> str:
    """The share that jobs on an allocation run on: a `capacity` allocation's own, else the
    project's.
    """
    project = share_of_project(allocation.project, programme)
    return project if allocation.kind is AllocationKind.HOURS else f"{project}.{allocation.id}"


def share_of_project(project: str, programme: str = NATIONAL) -> str:
    """The share of a project, below which its capacity allocations stand."""
    return f"{programme}.{project}"


class _Left:
    """What a programme's guarantees leave, over time, once its children and awards are served."""

    def __init__(self, shares: Shares, programme: str, pools: Iterable[Pool]) -> None:
        models = {pool.id: pool.gpu_model for pool in pools}
        self._left = promised(shares.by_id[programme].guarantees, models)
        children = shares.children.get(programme, ())
        below = (guarantee for child in children for guarantee in child.guarantees)
        for what, steps in promised(below, models).items():
            for starts_ms, ends_ms, gpus in steps.spans():
                self._left.setdefault(what, Steps()).add(-gpus, starts_ms, ends_ms)

    def take(self, allocation: Allocation) -> int:
        """As many GPUs as there are for an allocation in its whole window, no longer there."""
        bounds = [f"model {allocation.gpu_model}", ALL]
        if allocation.pool is not None:
            bounds.append(f"pool {allocation.pool}")
        window = (allocation.starts_ms, allocation.ends_ms)
        steps = [self._left.setdefault(bound, Steps()) for bound in bounds]
        gpus = max(0, min(allocation.gpus or 0, *(bound.least(*window) for bound in steps)))
        for bound in steps:
            bound.add(-gpus, *window)
        return gpus


def _with_root(shares: Shares, programme: str) -> Shares:
    root = Share(id=programme, kind=ShareKind.PROGRAMME)
    return replace(shares, shares=(*shares.shares, root))


def _guarantees(allocation: Allocation, gpus: int) -> tuple[Guarantee, ...]:
    if not gpus:
        return ()
    named = allocation.pool is not None
    return (
        Guarantee(
            gpus=gpus,
            pool=allocation.pool,
            gpu_model=None if named else allocation.gpu_model,
            starts_ms=allocation.starts_ms,
            ends_ms=allocation.ends_ms,
        ),
    )


def _worth_milli(allocation: Allocation, tariff: Tariff) -> int:
    """What an allocation gives on average, in thousandths of an H100."""
    if allocation.kind is AllocationKind.CAPACITY:
        return (allocation.gpus or 0) * weight_milli(tariff, allocation.gpu_model or "")
    window_ms = allocation.ends_ms - allocation.starts_ms
    credit = allocation.credit_ucredit or 0
    return credit * MS_PER_HOUR * MILLI // (UCREDIT_PER_CREDIT * window_ms)

"""Whether the GPUs that there will be cover what a tree promises."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dure.fleet import Pool
from dure.shares.cells import in_service
from dure.shares.promises import Guarantee, check_covered, promised, some
from dure.shares.steps import Steps
from dure.shares.tree import Share, Shares
from dure.units import INSTANT_MS_MAX, iso


def check_against(shares: Shares, pools: Iterable[Pool]) -> None:
    """Hold a tree to the GPUs that there will be.

    Roots may promise more than is in service today (`cells` cuts that), but in no window more of a
    pool, or of a model, than is ever in service in that window; below them, nobody more of a model
    than its parent has, by model and by pools of it.

    Raises:
        ValueError: the first promise that nothing covers, or a pool or model that does not exist.
    """
    standing = {pool.id: pool for pool in pools}
    models = {id_: pool.gpu_model for id_, pool in standing.items()}
    known_models = set(models.values())
    for share in shares.shares:
        for guarantee in share.guarantees:
            named = guarantee.pool or guarantee.gpu_model
            known = models.keys() if guarantee.pool else known_models
            if named not in known:
                raise ValueError(
                    f"share {share.id} is promised {guarantee.gpus:,} GPUs of {guarantee.what}, "
                    f"which is not in the fleet; known are {some(known)}"
                )
    for parent, children in shares.children.items():
        below = promised(_guarantees(children), models)
        if parent is None:
            _check_in_service(below, standing.values())
            continue
        own = promised(shares.by_id[parent].guarantees, models)
        for what, steps in below.items():
            if what.startswith("model "):
                check_covered(parent, what, steps, own.get(what))


def _guarantees(shares: Iterable[Share]) -> Iterable[Guarantee]:
    return (guarantee for share in shares for guarantee in share.guarantees)


def _check_in_service(below: Mapping[str, Steps], pools: Iterable[Pool]) -> None:
    there: dict[str, Steps] = {}
    for pool in pools:
        for what in (f"pool {pool.id}", f"model {pool.gpu_model}"):
            steps = there.setdefault(what, Steps())
            for starts_ms, ends_ms, gpus in in_service(pool):
                steps.add(gpus, starts_ms, ends_ms)
    for what in sorted(below.keys() & there.keys(), reverse=True):  # pools first
        for starts_ms, ends_ms, gpus in below[what].spans():
            if gpus > (most := there[what].most(starts_ms, ends_ms)):
                window = f" from {iso(starts_ms)}" if starts_ms else ""
                until = f" until {iso(ends_ms)}" if ends_ms < INSTANT_MS_MAX else ""
                raise ValueError(
                    f"the shares promise {gpus:,} GPUs of {what}{window}{until}, where at most "
                    f"{most:,} are ever in service; promise no more than that"
                )

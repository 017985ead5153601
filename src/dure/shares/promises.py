"""What is promised: guarantees, and what several of them come to over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from dure.fleet import GPUS_MAX
from dure.shares.steps import Steps
from dure.text import shown
from dure.units import INSTANT_MS_MAX, iso

ALL: Final = "any pool"
"""What all guarantees are of, whatever else they name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """`gpus` of `pool`, or of `gpu_model` in any pool, from `starts_ms` until before `ends_ms`.

    Exactly one of `pool` and `gpu_model` is named.
    """

    gpus: int
    pool: str | None = None
    gpu_model: str | None = None
    starts_ms: int = 0
    ends_ms: int = INSTANT_MS_MAX

    def __post_init__(self) -> None:
        if not 1 <= self.gpus <= GPUS_MAX:
            raise ValueError(f"gpus is {self.gpus:,}; a guarantee is of 1 to {GPUS_MAX:,} GPUs")
        if (self.pool is None) == (self.gpu_model is None):
            raise ValueError(
                f"pool is {shown(self.pool)} and gpu_model {shown(self.gpu_model)}; "
                "a guarantee names exactly one of them"
            )
        if not 0 <= self.starts_ms < self.ends_ms <= INSTANT_MS_MAX:
            raise ValueError(
                f"starts_ms is {self.starts_ms} and ends_ms {self.ends_ms}; "
                "a guarantee's window ends after it starts, from 1970 to the year 9999"
            )

    @property
    def what(self) -> str:
        """What it is of, as a sentence says it."""
        return f"pool {self.pool}" if self.pool else f"model {self.gpu_model}"


def promised(guarantees: Iterable[Guarantee], models: Mapping[str, str]) -> dict[str, Steps]:
    """What guarantees come to over time: `pool P`, `model M` and `ALL`, each with its GPUs.

    A guarantee of a pool counts for its model too, where `models` (pool id -> model) names it.
    """
    sums: dict[str, Steps] = {}
    for guarantee in guarantees:
        model = guarantee.gpu_model or models.get(guarantee.pool or "")
        of = (guarantee.what, f"model {model}", ALL) if model else (guarantee.what, ALL)
        for what in dict.fromkeys(of):
            steps = sums.setdefault(what, Steps())
            steps.add(guarantee.gpus, guarantee.starts_ms, guarantee.ends_ms)
    return sums


def check_covered(parent: str, what: str, below: Steps, own: Steps | None) -> None:
    """Hold what is promised below a share to what it is promised itself.

    Raises:
        ValueError: at some instant it is more.
    """
    for starts_ms, ends_ms, gpus in below.spans():
        has = own.least(starts_ms, ends_ms) if own else 0
        if gpus > has:
            raise ValueError(
                f"the shares below {parent} are promised {gpus:,} GPUs of {what} from "
                f"{iso(starts_ms)}, where {parent} has {has:,}; promise no more than that"
            )


def some(known: Iterable[str]) -> str:
    """Up to ten of those known, in order, for a sentence."""
    names = sorted(known)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return (", ".join(names[:10]) + more) or "none"

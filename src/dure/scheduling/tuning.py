"""The scheduler's dials, each with a unit and a reason; `dure rehearse --set` turns them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

DIAL_MAX: Final = 10**9
"""Of any dial; in seconds that is 32 years."""
_LEAST: Final = {"half_life_s": 1, "rank_period_s": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How one nation wants its scheduler; the defaults are those that rehearsals bear out."""

    recall_s: int = 60
    """What a recall takes at most where a job names no grace of its own."""
    recalls_max: int = 3
    """After so many recalls a task goes last: it is called back again only where no other will
    do."""
    min_runtime_s: int = 600
    """How long a borrower runs before it can be called back."""
    half_life_s: int = 7 * 24 * 3_600
    """Usage counts half after so long (Slurm's PriorityDecayHalfLife, 7 days by default)."""
    wait_bound_s: int = 14 * 24 * 3_600
    """A task that has waited so long comes before all that have not, oldest first."""
    patience_s: int = 14 * 24 * 3_600
    """When a blocked head without a limit of its own has nodes kept for it. One whose walltime its
    engine enforces has them at once (EASY); kept on the word of a mere estimate, they may idle for
    nothing. What that costs depends on the nation: docs/adr/0016 has figures to either side."""
    rank_period_s: int = 6 * 3_600
    """How often all who wait are ranked anew (Slurm's PriorityCalcPeriod). A share whose own usage
    changes is ranked at once; what time and its siblings do to a rank takes a good part of a
    half-life."""
    borrow_before_recall_s: int = 6 * 3_600
    """A task expected to run no longer than this rather borrows what idles elsewhere than have
    somebody called back from what it is promised."""
    checkpoint_age_s: int = 1_800
    """How old a checkpoint usually is (the median): what tells of none counts as that old."""

    def __post_init__(self) -> None:
        for dial in fields(self):
            value, least = getattr(self, dial.name), _LEAST.get(dial.name, 0)
            if not least <= value <= DIAL_MAX:
                raise ValueError(f"{dial.name} is {value}; it must be from {least} to {DIAL_MAX}")

"""The scheduler's dials, each with a unit and a reason. `dure rehearse --set NAME=VALUE` turns them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How one nation wants its scheduler; the defaults are those that rehearsals bear out."""

    recall_s: int = 60
    """What a recall takes at most where a job names no grace of its own."""
    recalls_max: int = 3
    """How often one task may be called back; after that it borrows no more on others' guarantees."""
    min_runtime_s: int = 600
    """How long a borrower runs before it can be called back."""
    half_life_s: int = 7 * 24 * 3_600
    """Usage counts half after so long (Slurm's PriorityDecayHalfLife, 7 days by default)."""
    wait_bound_s: int = 24 * 3_600
    """A task that has waited so long comes before all that have not, oldest first."""

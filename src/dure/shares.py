"""The tree of capacity: who is promised how many GPUs, who lends what idles, who may borrow.

Owners, national programmes, projects and capacity allocations are all shares. A guarantee is GPUs
of one pool, or of one GPU model wherever they stand, for a window. What a child is promised is
carved out of its parent's promise; what is left of it serves the parent's other children.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dure.units import INSTANT_MS_MAX


class ShareKind(StrEnum):
    """What stands behind a share."""

    OWNER = "owner"
    PROGRAMME = "programme"
    PROJECT = "project"
    ALLOCATION = "allocation"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A node of the tree. `weight_milli` divides what is lent among siblings; `limit_gpus` is the
    most that it and all below it may use at a time, borrowed ones included.
    """

    id: str
    kind: ShareKind
    parent: str | None = None
    weight_milli: int = 1_000
    guarantees: tuple[Guarantee, ...] = ()
    may_lend: bool = True
    may_borrow: bool = True
    limit_gpus: int | None = None


@dataclass(frozen=True, slots=True)
class Shares:
    """The whole tree; ids are unique, parents are there and nothing is its own ancestor."""

    shares: tuple[Share, ...] = ()

"""The tree of capacity: who is promised how many GPUs, who lends what idles, who may borrow.

Owners, national programmes, projects and capacity allocations are all shares. A guarantee is GPUs
of one pool, or of one GPU model wherever they stand, for a window. What a child is promised is
carved out of its parent's promise; what is left of it serves the parent's other children.

A promise is for as many GPUs as are in service: `cells` says what the tree is worth at an instant.
Where next: `dure.scheduling` starts, lends and recalls by it.
"""

from dure.shares.awarded import (
    Awards,
    Shortfall,
    leaf_of,
    share_of_project,
    with_allocations,
)
from dure.shares.cells import Cell, cells, changes_ms
from dure.shares.cover import check_against
from dure.shares.promises import Guarantee
from dure.shares.tree import NATIONAL, Share, ShareKind, Shares, path, shares_of

__all__ = [
    "NATIONAL",
    "Awards",
    "Cell",
    "Guarantee",
    "Share",
    "ShareKind",
    "Shares",
    "Shortfall",
    "cells",
    "changes_ms",
    "check_against",
    "leaf_of",
    "path",
    "share_of_project",
    "shares_of",
    "with_allocations",
]

"""The tree itself: shares, whose they are, and what hangs below what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final

from dure.fleet import Fleet
from dure.shares.promises import ALL, Guarantee, check_covered, promised, some
from dure.text import shown

NATIONAL: Final = "national"
"""The holder in `[[pool.share]]` that is the national programme; every other one is an operator."""

_ID: Final = re.compile(r"\A[a-z0-9][a-z0-9-]{0,62}(?:\.[a-z0-9][a-z0-9-]{0,62}){0,7}\Z")


class ShareKind(StrEnum):
    """What stands behind a share."""

    OWNER = "owner"
    PROGRAMME = "programme"
    PROJECT = "project"
    ALLOCATION = "allocation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A node of the tree. `weight_milli` divides what is lent among siblings; `limit_gpus` is the
    most that it and all below it may use at a time, borrowed ones included.

    An id is slugs joined by dots: `national`, `national.proj-x`, `national.proj-x.alloc-1`. As no
    slug holds a dot, what hangs below different shares never gets the same id.
    """

    id: str
    kind: ShareKind
    parent: str | None = None
    weight_milli: int = 1_000
    guarantees: tuple[Guarantee, ...] = ()
    may_lend: bool = True
    may_borrow: bool = True
    limit_gpus: int | None = None

    def __post_init__(self) -> None:
        if not _ID.match(self.id):
            raise ValueError(
                f"share id {shown(self.id)} is not an id; use up to 8 parts joined by dots, each "
                "of 1 to 63 lower-case letters, digits or hyphens"
            )
        if self.weight_milli < 1:
            raise ValueError(
                f"weight_milli of share {self.id} is {self.weight_milli}; it must be at least 1"
            )
        if self.limit_gpus is not None and self.limit_gpus < 1:
            raise ValueError(
                f"limit_gpus of share {self.id} is {self.limit_gpus}; it must be at least 1, or "
                "left out for no limit"
            )


@dataclass(frozen=True)
class Shares:
    """The whole tree; ids are unique, parents are there and nothing is its own ancestor.

    At no instant are a share's children promised more of a pool than it is itself, nor more GPUs in
    all. That a promise of a model is covered by pools of that model is for `check_against` to say,
    which knows the pools.
    """

    shares: tuple[Share, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for share in self.shares:
            if share.id in seen:
                raise ValueError(f"share {share.id} is named twice; ids are unique")
            seen.add(share.id)
        for share in self.shares:
            if share.parent is not None and share.parent not in seen:
                raise ValueError(
                    f"parent of share {share.id} is {shown(share.parent)}, which is no share; "
                    f"known are {some(seen)}"
                )
        self._check_roots()
        for parent_id, children in self.children.items():
            if parent_id is not None:
                self._check_carved(self.by_id[parent_id], children)

    @cached_property
    def by_id(self) -> Mapping[str, Share]:
        """Each share under its id."""
        return {share.id: share for share in self.shares}

    @cached_property
    def children(self) -> Mapping[str | None, tuple[Share, ...]]:
        """The shares right below each, in id order; below None, the roots. Leaves have no entry."""
        below: dict[str | None, list[Share]] = {}
        for share in sorted(self.shares, key=lambda share: share.id):
            below.setdefault(share.parent, []).append(share)
        return {parent: tuple(shares) for parent, shares in below.items()}

    def _check_roots(self) -> None:
        rooted: set[str] = set()
        for share in self.shares:
            trail: list[str] = []
            at: str | None = share.id
            while at is not None and at not in rooted:
                if at in trail:
                    raise ValueError(
                        f"share {at} is its own ancestor ({' below '.join([*trail, at])}); "
                        "parents must lead to a share without one"
                    )
                trail.append(at)
                at = self.by_id[at].parent
            rooted.update(trail)

    @staticmethod
    def _check_carved(parent: Share, children: tuple[Share, ...]) -> None:
        own = promised(parent.guarantees, {})
        below = (guarantee for child in children for guarantee in child.guarantees)
        for what, steps in promised(below, {}).items():
            if what.startswith("pool ") or what == ALL:
                check_covered(parent.id, what, steps, own.get(what))


def path(shares: Shares, leaf: str) -> tuple[str, ...]:
    """The ids from a share up to its root.

    Raises:
        KeyError: there is no such share.
    """
    ids = []
    at: str | None = leaf
    while at is not None:
        if at not in shares.by_id:
            raise KeyError(f"no share {at} in this tree")
        ids.append(at)
        at = shares.by_id[at].parent
    return tuple(ids)


def shares_of(fleet: Fleet) -> Shares:
    """The roots that the fleet's pools name: one share a holder, with a guarantee a pool.

    A holder lends, and borrows, if it says so of each of its pools.
    """
    held: dict[str, list[tuple[str, int, bool, bool]]] = {}
    for pool in fleet.pools:
        for share in pool.shares:
            row = (pool.id, share.gpus, share.may_lend, share.may_borrow)
            held.setdefault(share.holder, []).append(row)
    return Shares(
        tuple(
            Share(
                id=holder,
                kind=ShareKind.PROGRAMME if holder == NATIONAL else ShareKind.OWNER,
                guarantees=tuple(Guarantee(gpus=gpus, pool=pool) for pool, gpus, _, _ in rows),
                may_lend=all(lends for _, _, lends, _ in rows),
                may_borrow=all(borrows for _, _, _, borrows in rows),
            )
            for holder, rows in sorted(held.items())
        )
    )

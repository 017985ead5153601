"""The tree of shares as a scenario's file writes it: `[[share]]` rows below the pools' holders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from dure.fleet import Fleet, Pool
from dure.shares import Guarantee, Share, ShareKind, Shares, check_against, shares_of
from dure.tomltable import Table
from dure.units import INSTANT_MS_MAX, MILLI


def read_shares(top: Table, fleet: Fleet) -> Shares:
    """The holders of the pools, and what the file adds to them, in the file's order.

    Raises:
        ValueError: a row is wrong, or the tree promises more than there is.
    """
    pools = fleet.pools
    roots = shares_of(fleet)
    check_against(roots, pools)
    known = dict(roots.by_id)
    rows: list[tuple[Table, Share]] = []

    def add(table: Table) -> None:
        share = _read_share(table, known, pools)
        known[share.id] = share
        rows.append((table, share))

    top.tables("share", add)
    try:
        return _checked(known, pools)
    except ValueError:
        _blame(rows, roots, pools)
        raise


def _checked(known: Mapping[str, Share], pools: Sequence[Pool]) -> Shares:
    shares = Shares(tuple(known.values()))
    check_against(shares, pools)
    return shares


def _blame(rows: Sequence[tuple[Table, Share]], roots: Shares, pools: Sequence[Pool]) -> None:
    """Find the row from which on the tree cannot be. That takes the square of the rows, so it is
    not asked of a tree that can.
    """
    known = dict(roots.by_id)
    for table, share in rows:
        known[share.id] = share
        table.build(lambda _: _checked(known, pools))


def _read_share(table: Table, known: Mapping[str, Share], pools: Sequence[Pool]) -> Share:
    """A new share, or a holder of pools whose dials are turned."""
    id_ = table.text("id")
    share = known.get(id_)
    if share is None:
        is_root = table.has("kind") and not table.has("parent")
        parent = None if is_root else table.one_of("parent", known)
        kind = table.given("kind", partial(table.one_of, known=ShareKind), ShareKind.PROGRAMME)
        share = Share(id=id_, kind=kind, parent=parent)
    guarantees = table.tables("guarantee", _read_guarantee)
    if share.parent is not None and table.has("part_milli"):
        part_milli = table.count("part_milli")
        guarantees += _part(known[share.parent], part_milli, pools)
    limit = table.given("limit_gpus", table.integer, share.limit_gpus)
    weight = table.given("weight_milli", table.integer, share.weight_milli)
    return replace(
        share,
        weight_milli=weight,
        limit_gpus=limit,
        guarantees=share.guarantees + guarantees,
        may_lend=table.flag("may_lend", default=share.may_lend),
        may_borrow=table.flag("may_borrow", default=share.may_borrow),
    )


def _read_guarantee(table: Table) -> Guarantee:
    return Guarantee(
        gpus=table.integer("gpus"),
        pool=table.given("pool", table.text, None),
        gpu_model=table.given("gpu_model", table.text, None),
        starts_ms=table.given("starts", table.instant_ms, 0),
        ends_ms=table.given("ends", table.instant_ms, INSTANT_MS_MAX),
    )


def _part(parent: Share, part_milli: int, pools: Sequence[Pool]) -> tuple[Guarantee, ...]:
    """So many thousandths of each of a parent's guarantees, in whole nodes of a pool, rounded down
    so that all parts together never exceed it.
    """
    node = {pool.id: pool.gpus_per_node for pool in pools}
    parts = []
    for guarantee in parent.guarantees:
        unit = node.get(guarantee.pool or "", 1)
        if gpus := guarantee.gpus * part_milli // (MILLI * unit) * unit:
            parts.append(replace(guarantee, gpus=gpus))
    return tuple(parts)

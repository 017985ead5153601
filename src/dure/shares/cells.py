"""What the tree is worth at an instant: cells, which nobody else is promised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dure.fleet import Pool, WavePhase
from dure.shares.tree import Share, Shares
from dure.units import INSTANT_MS_MAX


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """GPUs of a pool that only `share` is promised: none of its children is, nor anybody else."""

    pool: str
    share: str
    gpus: int


def cells(shares: Shares, pools: Iterable[Pool], at_ms: int) -> tuple[Cell, ...]:
    """What each share alone is promised at an instant, in whole GPUs, by pool and then share.

    Cells are disjoint: a share's is what its children leave of it, and those of a pool are together
    at most its GPUs in service. Where guarantees together exceed what there is of a pool (its
    waves are still to come, or already gone), each is cut in proportion; where they do not, each
    is whole. A guarantee of a model is spread over that model's pools in proportion to what the
    guarantees of pools leave there. Both go by largest remainder, in whole nodes first.

    The answer is the same until the next of `changes_ms`.
    """
    standing = {pool.id: pool for pool in sorted(pools, key=lambda pool: pool.id)}
    whole = {id_: pool.gpus_in(WavePhase.IN_SERVICE, at_ms) for id_, pool in standing.items()}
    found: list[Cell] = []
    to_carve: list[tuple[str | None, dict[str, int]]] = [(None, whole)]
    while to_carve:
        parent, left = to_carve.pop()
        room = _Room(standing, left)
        _carve(shares.children.get(parent, ()), room, at_ms)
        to_carve.extend(room.given.items())
        if parent is not None:
            found.extend(Cell(pool, parent, gpus) for pool, gpus in left.items() if gpus)
    return tuple(sorted(found))


def changes_ms(shares: Shares, pools: Iterable[Pool]) -> tuple[int, ...]:
    """The instants, sorted, at which cells may change: waves come and go, so do guarantees."""
    windows = [
        (guarantee.starts_ms, guarantee.ends_ms)
        for share in shares.shares
        for guarantee in share.guarantees
    ]
    waves = [(starts_ms, ends_ms) for pool in pools for starts_ms, ends_ms, _ in in_service(pool)]
    instants = {instant for window in (*windows, *waves) for instant in window}
    return tuple(sorted(instants - {0, INSTANT_MS_MAX}))


def in_service(pool: Pool) -> tuple[tuple[int, int, int], ...]:
    """The windows in which a pool's waves run jobs: (starts_ms, ends_ms, GPUs of that wave)."""
    found = []
    for wave in pool.waves:
        ends_ms = [*(start.at_ms for start in wave.phases[1:]), INSTANT_MS_MAX]
        for start, until_ms in zip(wave.phases, ends_ms, strict=True):
            if start.phase is WavePhase.IN_SERVICE:
                found.append((start.at_ms, until_ms, wave.gpus))
    return tuple(found)


class _Room:
    """What is left of each pool, and what of it went to whom."""

    def __init__(self, pools: Mapping[str, Pool], left: dict[str, int]) -> None:
        self.pools = pools
        self.left = left
        self.given: dict[str, dict[str, int]] = {}

    def serve_pool(self, pool: str, wants: Mapping[str, int]) -> None:
        """Give each share the GPUs of a pool that it is promised, cut in proportion."""
        node = self.pools[pool].gpus_per_node
        parts = _apportion(self.left[pool], [(gpus, node) for gpus in wants.values()])
        for share, gpus in zip(wants, parts, strict=True):
            self._give(share, pool, gpus)

    def serve_model(self, model: str, wants: Mapping[str, int]) -> None:
        """Give each share the GPUs of a model that it is promised, over the pools that have it."""
        alike = [id_ for id_ in self.left if self.pools[id_].gpu_model == model]
        node = min((self.pools[id_].gpus_per_node for id_ in alike), default=1)
        total = sum(self.left[id_] for id_ in alike)
        parts = _apportion(total, [(gpus, node) for gpus in wants.values()])
        for share, gpus in zip(wants, parts, strict=True):
            rooms = [(self.left[id_], self.pools[id_].gpus_per_node) for id_ in alike]
            for pool, part in zip(alike, _apportion(gpus, rooms), strict=True):
                self._give(share, pool, part)

    def _give(self, share: str, pool: str, gpus: int) -> None:
        if gpus:
            self.left[pool] -= gpus
            row = self.given.setdefault(share, {})
            row[pool] = row.get(pool, 0) + gpus


def _carve(siblings: Sequence[Share], room: _Room, at_ms: int) -> None:
    """Serve siblings, who stand in id order, from a room: promises of pools before models."""
    of_pool: dict[str, dict[str, int]] = {}
    of_model: dict[str, dict[str, int]] = {}
    for share in siblings:
        for guarantee in share.guarantees:
            if not guarantee.starts_ms <= at_ms < guarantee.ends_ms:
                continue
            if guarantee.pool is not None:
                wants = of_pool.setdefault(guarantee.pool, {})
            else:
                wants = of_model.setdefault(guarantee.gpu_model or "", {})
            wants[share.id] = wants.get(share.id, 0) + guarantee.gpus
    for pool in sorted(of_pool.keys() & room.left.keys()):
        room.serve_pool(pool, of_pool[pool])
    for model in sorted(of_model):
        room.serve_model(model, of_model[model])


def _apportion(total: int, caps: Sequence[tuple[int, int]]) -> list[int]:
    """`total` in proportion to caps, none above its own; each cap has the unit it is given in.

    Largest remainder (Hamilton's method), ties by place in the list; parts of a unit come last.
    """
    whole = sum(cap for cap, _ in caps)
    if total >= whole:
        return [cap for cap, _ in caps]
    parts = [total * cap // (whole * unit) * unit for cap, unit in caps]
    left = total - sum(parts)
    by_remainder = sorted(
        range(len(caps)), key=lambda index: parts[index] * whole - total * caps[index][0]
    )
    while left:
        for index in by_remainder:
            cap, unit = caps[index]
            more = min(unit, cap - parts[index], left)
            parts[index] += more
            left -= more
    return parts

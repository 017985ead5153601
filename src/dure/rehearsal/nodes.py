"""Nodes as published simulators fill them: by how many GPUs are free, a bit a node in each bucket.

The lowest ordinal among equals is then the lowest bit set, found and moved by machine words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

ALL: Final = -1
"""The bit mask of every node."""


class Held(NamedTuple):
    """What a job holds: whole nodes as a bit mask, and GPUs of one node more (-1: of none)."""

    whole: int
    node: int
    gpus: int


class Nodes:
    """So many nodes, all free. Whole nodes that a job holds are in no bucket."""

    __slots__ = ("_buckets", "_free", "_size")

    def __init__(self, nodes: int, gpus_per_node: int) -> None:
        self._size = gpus_per_node
        self._buckets = [0] * gpus_per_node + [(1 << nodes) - 1]
        self._free = [gpus_per_node] * nodes

    def take(self, gpus: int) -> Held | None:
        """Place a job "consolidated", or nothing where it does not fit.

        Up to a node's size: the node with the fewest free GPUs that still fits. Beyond: wholly free
        nodes, and for the rest the node with the most free GPUs. The lowest ordinal among equals.
        """
        count, rest = divmod(gpus, self._size)
        if count:
            return self._take_gang(count, rest, ALL)
        for free in range(rest, self._size + 1):
            if self._buckets[free]:
                return Held(0, self._take_some(free, rest, ALL), rest)
        return None

    def fits(self, gpus: int) -> bool:
        """Whether `take` would find a place."""
        return self._fits_within(gpus, ALL)

    def copy(self) -> Nodes:
        """The same nodes, to try things on."""
        same = Nodes(0, self._size)
        same._buckets = self._buckets.copy()
        same._free = self._free.copy()
        return same

    def hold(self, held: Held) -> None:
        """Take what a job holds elsewhere, which must be free here."""
        whole, node, gpus = held
        self._buckets[self._size] ^= whole
        if gpus:
            self._move(node, self._free[node] - gpus)

    def give(self, held: Held) -> None:
        """Free what a job held."""
        whole, node, gpus = held
        self._buckets[self._size] |= whole
        if gpus:
            self._move(node, self._free[node] + gpus)

    def _fits_within(self, gpus: int, mask: int) -> bool:
        count, rest = divmod(gpus, self._size)
        empty = (self._buckets[self._size] & mask).bit_count()
        if empty < count:
            return False
        partly = self._buckets[rest : self._size]
        return not rest or empty > count or any(bucket & mask for bucket in partly)

    def _take_gang(self, count: int, rest: int, mask: int) -> Held | None:
        """Wholly free nodes among those of a mask, and one more for the rest."""
        empty = self._buckets[self._size] & mask
        if empty.bit_count() < count:
            return None
        whole = _lowest(empty, count)
        self._buckets[self._size] ^= whole
        if not rest:
            return Held(whole, -1, 0)
        for free in range(self._size, rest - 1, -1):
            if self._buckets[free] & mask:
                return Held(whole, self._take_some(free, rest, mask), rest)
        self._buckets[self._size] ^= whole
        return None

    def _take_some(self, free: int, gpus: int, mask: int) -> int:
        bucket = self._buckets[free] & mask
        node = (bucket & -bucket).bit_length() - 1
        self._move(node, free - gpus)
        return node

    def _move(self, node: int, free: int) -> None:
        bit = 1 << node
        self._buckets[self._free[node]] ^= bit
        self._buckets[free] |= bit
        self._free[node] = free


class Clusters(Nodes):
    """Nodes in clusters, numbered one cluster after the other, of which a job runs inside one.

    A job within a node's size takes the best fitting node of all. A gang takes the cluster with the
    fewest wholly free nodes that still holds it, the first among equals.
    """

    __slots__ = ("_masks",)

    def __init__(self, clusters: Sequence[int], gpus_per_node: int) -> None:
        super().__init__(sum(clusters), gpus_per_node)
        self._masks = tuple(_masks(clusters))

    def take(self, gpus: int) -> Held | None:
        """Place a job inside one cluster, there "consolidated" as `Nodes` does."""
        count, rest = divmod(gpus, self._size)
        if not count:
            return super().take(gpus)
        empty = self._buckets[self._size]
        fitting = [mask for mask in self._masks if self._fits_within(gpus, mask)]
        if not fitting:
            return None
        fewest = min(fitting, key=lambda mask: (empty & mask).bit_count())
        return self._take_gang(count, rest, fewest)

    def fits(self, gpus: int) -> bool:
        """Whether `take` would find a place."""
        return any(self._fits_within(gpus, mask) for mask in self._masks)

    def copy(self) -> Clusters:
        """The same nodes, to try things on."""
        same = Clusters((), self._size)
        same._buckets = self._buckets.copy()
        same._free = self._free.copy()
        same._masks = self._masks
        return same

    def cluster_of(self, held: Held) -> int:
        """The ordinal of the cluster that a job is in."""
        nodes = held.whole or 1 << held.node
        return next(place for place, mask in enumerate(self._masks) if nodes & mask)


def _masks(clusters: Sequence[int]) -> Iterator[int]:
    first = 0
    for nodes in clusters:
        yield ((1 << nodes) - 1) << first
        first += nodes


def _lowest(mask: int, count: int) -> int:
    """The lowest `count` bits of a mask that has as many."""
    if mask.bit_count() == count:
        return mask
    taken = 0
    for _ in range(count):
        bit = mask & -mask
        taken |= bit
        mask ^= bit
    return taken

"""Nodes as published simulators fill them: by how many GPUs are free, a bit a node in each bucket.

The lowest ordinal among equals is then the lowest bit set, found and moved by machine words.
"""

from __future__ import annotations

from typing import NamedTuple


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
        empty = self._buckets[self._size]
        if empty.bit_count() < count:
            return None
        whole = _lowest(empty, count)
        self._buckets[self._size] ^= whole
        if not rest:
            return Held(whole, -1, 0)
        fits = range(self._size, rest - 1, -1) if count else range(rest, self._size + 1)
        for free in fits:
            if self._buckets[free]:
                return Held(whole, self._take_some(free, rest), rest)
        self._buckets[self._size] ^= whole
        return None

    def fits(self, gpus: int) -> bool:
        """Whether `take` would find a place."""
        count, rest = divmod(gpus, self._size)
        empty = self._buckets[self._size].bit_count()
        return empty >= count and (
            not rest or empty > count or any(self._buckets[rest : self._size])
        )

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

    def _take_some(self, free: int, gpus: int) -> int:
        bucket = self._buckets[free]
        node = (bucket & -bucket).bit_length() - 1
        self._move(node, free - gpus)
        return node

    def _move(self, node: int, free: int) -> None:
        bit = 1 << node
        self._buckets[self._free[node]] ^= bit
        self._buckets[free] |= bit
        self._free[node] = free


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

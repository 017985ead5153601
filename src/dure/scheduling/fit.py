"""Where in a pool: best fit over counts of nodes by free slots.

A slot is one GPU of a node with its share of CPUs and memory. Nodes stand in buckets by the slots
that they have free, so a decision looks at as many buckets as a node has slots, at 300 GPUs or at
300,000; it never walks the nodes. Best fit keeps whole nodes whole for those who need them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fit:
    """Nodes for a gang, in ascending order, and the free slots that stay over on them."""

    nodes: tuple[int, ...]
    leftover: int

    def __add__(self, other: Fit) -> Fit:
        return Fit(tuple(sorted(self.nodes + other.nodes)), self.leftover + other.leftover)


class FreeNodes:
    """The nodes of one pool by how many slots they have free.

    A node's free slots may be negative, where a site runs more than the node is said to have: then
    nothing fits there until enough of it has ended.
    """

    __slots__ = ("_buckets", "_free")

    def __init__(self, free: Mapping[int, int]) -> None:
        self._free = dict(free)
        self._buckets: dict[int, list[int]] = {}
        for node in sorted(self._free):
            self._buckets.setdefault(self._free[node], []).append(node)

    def __contains__(self, node: int) -> bool:
        return node in self._free

    def __len__(self) -> int:
        return len(self._free)

    def free(self, node: int) -> int:
        """The free slots of a node. Raises KeyError for a node that is not here."""
        return self._free[node]

    def count(self, slots: int) -> int:
        """How many nodes have at least so many slots free."""
        return sum(len(nodes) for free, nodes in self._buckets.items() if free >= slots)

    def find(self, nodes: int, slots: int) -> Fit | None:
        """So many nodes with at least so many slots free each, or nothing.

        The fullest nodes that still fit come first, among equals those of the lowest ordinals.
        """
        found: list[int] = []
        leftover = 0
        for free in sorted(free for free in self._buckets if free >= slots):
            chosen = self._buckets[free][: nodes - len(found)]
            found += chosen
            leftover += len(chosen) * (free - slots)
            if len(found) == nodes:
                break
        return Fit(tuple(sorted(found)), leftover) if len(found) == nodes else None

    def take(self, nodes: Iterable[int], slots: int) -> None:
        """Occupy slots of each of these nodes."""
        for node in nodes:
            self._move(node, self._free[node] - slots)

    def give(self, nodes: Iterable[int], slots: int) -> None:
        """Free slots of each of these nodes again."""
        self.take(nodes, -slots)

    def withdraw(self, nodes: Iterable[int]) -> FreeNodes:
        """Move these nodes out of here and into a set of their own."""
        return FreeNodes({node: self._remove(node) for node in nodes})

    def _move(self, node: int, free: int) -> None:
        self._remove(node)
        self._free[node] = free
        insort(self._buckets.setdefault(free, []), node)

    def _remove(self, node: int) -> int:
        free = self._free.pop(node)
        bucket = self._buckets[free]
        del bucket[bisect_left(bucket, node)]
        if not bucket:
            del self._buckets[free]
        return free

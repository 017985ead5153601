"""Who is called back, so that a share gets what it is promised.

Borrowers only: whoever runs under a promise is never moved, so a recall never sets off another. The
first to go are those who lose least: whose work was saved last, be it by a checkpoint or because
they have hardly begun. One that never tells of checkpoints counts as if it had saved its work as
long ago as is usual (`checkpoint_age_s`, the median), so telling of them never makes a task the
better victim than keeping silent. Who was called back often goes after all others, and nobody goes
before its minimum runtime.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

from dure.scheduling.lane import Borrower, Lane, Nodes, ordinals
from dure.scheduling.tuning import Tuning
from dure.scheduling.waiting import Task


@dataclass(frozen=True, slots=True)
class Victims:
    """The nodes that will be free once these tasks are gone; 0 where it cannot be done now."""

    nodes: Nodes = 0
    tasks: tuple[Task, ...] = ()


def victims(lane: Lane, count: int, slots: int, now_ms: int, tuning: Tuning) -> Victims:
    """Whom to call back so that `count` nodes of a lane have so many slots free.

    The work grows with the borrowers looked at, the likeliest first.
    """
    ready = lane.free.with_(slots) & lane.unowed
    search = _Search(lane, lane.unowed & ~ready, slots, max(0, count - ready.bit_count()))
    enough = search.short == 0
    for task in () if enough else _least_lost(lane, now_ms, tuning.checkpoint_age_s * 1_000):
        if enough := search.count(task):
            break
    return search.victims(ready, count) if enough else Victims()


def _least_lost(lane: Lane, now_ms: int, age_ms: int) -> Iterator[Task]:
    """Borrowers, by what they would lose; those that tell of checkpoints and those that do not
    stand in a heap each, as only the former's loss is known.
    """
    read: list[tuple[list[Borrower], Borrower]] = []
    seen: set[int] = set()
    heaps = (lane.telling, lane.silent_ones)
    try:
        while True:
            best: tuple[tuple[int, int, int], list[Borrower]] | None = None
            for heap in heaps:
                while heap and (heap[0][3].serial in seen or not lane.may_go(heap[0])):
                    heappop(heap)
                if heap:
                    spared, minus_saved, serial, task = heap[0]
                    lost = now_ms + minus_saved
                    key = (spared, lost if task.tells else min(lost, age_ms), -serial)
                    if best is None or key < best[0]:
                        best = (key, heap)
            if best is None:
                return
            entry = heappop(best[1])
            read.append((best[1], entry))
            seen.add(entry[3].serial)
            yield entry[3]
    finally:
        for heap, entry in read:
            heappush(heap, entry)


class _Search:
    """Nodes that come free as one borrower after another goes."""

    __slots__ = ("_by_node", "_lane", "_level", "_open", "_slots", "found", "short")

    def __init__(self, lane: Lane, open_: Nodes, slots: int, short: int) -> None:
        self.found: list[int] = []
        self.short = short
        self._lane = lane
        self._open = open_
        self._slots = slots
        self._level: dict[int, int] = {}
        self._by_node: dict[int, list[Task]] = {}

    def count(self, task: Task) -> bool:
        """See which nodes would be free without this task and those before it; whether these are
        enough.
        """
        for node in ordinals(task.nodes & self._open):
            before = self._level.get(node, self._lane.free.of[node])
            if before >= self._slots:
                continue
            self._level[node] = before + task.slots
            self._by_node.setdefault(node, []).append(task)
            if self._level[node] >= self._slots:
                self.found.append(node)
        return len(self.found) >= self.short

    def victims(self, ready: Nodes, count: int) -> Victims:
        """Those on the nodes found, each once, and these nodes with ready ones as needed."""
        chosen = self.found[: self.short]
        tasks = {task.serial: task for node in chosen for task in self._by_node[node]}
        nodes = sum(1 << node for node in chosen)
        for node in ordinals(ready):
            if nodes.bit_count() == count:
                break
            nodes |= 1 << node
        return Victims(nodes, tuple(t for t in tasks.values() if t.notice_ms is None))

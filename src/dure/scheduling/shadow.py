"""EASY's shadow: when and where a blocked head can start if everything runs as expected.

The nodes that it will start on are kept for it from now on: others use them only if they end before
the head's time, so what is backfilled never delays it. Nodes that come free last are chosen first,
so what is free already stays open to others.

Source: D. Lifka, "The ANL/IBM SP Scheduling System", JSSPP 1995 (EASY). What runs longer than
expected is taken to run as long again, as in Tsafrir, Etsion and Feitelson, "Backfilling Using
System-Generated Predictions Rather than User Runtime Estimates", TPDS 2007.
"""

from __future__ import annotations

from dataclasses import dataclass

from dure.scheduling.lane import Lane, Nodes, lowest, ordinals
from dure.scheduling.waiting import Task


@dataclass(frozen=True, slots=True)
class Shadow:
    """When and where a blocked head can start, and the first end that brings it a node."""

    starts_ms: int
    nodes: Nodes
    next_ms: int
    next_task: Task | None


def shadow(
    lane: Lane, count: int, slots: int, now_ms: int, by_ms: int | None = None
) -> Shadow | None:
    """When that many nodes will have so many slots free; None where not so many are up, or where
    it would be after `by_ms`.

    The work grows with what must end until then, not with what runs.
    """
    open_ = lane.unowed
    if open_.bit_count() < count or slots > lane.slots:
        return None
    ready = lane.free.with_(slots) & open_
    short = count - ready.bit_count()
    if short <= 0:
        return Shadow(now_ms, lowest(ready, count), now_ms, None)
    level: dict[int, tuple[int, int]] = {}  # free, and by when, so far
    freed: list[tuple[int, int, Task]] = []  # when, node, whose end brings it
    for ends_ms, _, task in lane.releases:
        if len(freed) >= short and ends_ms > freed[-1][0]:
            break
        if by_ms is not None and ends_ms > by_ms:
            break
        at_ms = ends_ms if ends_ms > now_ms else 2 * now_ms - task.started_ms
        for node in ordinals(task.nodes & open_ & ~ready):
            before, so_far_ms = level.get(node, (lane.free.of[node], 0))
            level[node] = before + task.slots, max(at_ms, so_far_ms)
            if before < slots <= before + task.slots:
                freed.append((level[node][1], node, task))
    if len(freed) < short:
        return None
    freed.sort(key=lambda one: one[:2])
    first, starts_ms = freed[0], freed[short - 1][0]
    if by_ms is not None and starts_ms > by_ms:
        return None
    in_time = [one for one in freed if one[0] <= starts_ms]
    latest = sorted(in_time, key=lambda one: (-one[0], one[1]))[:count]
    nodes = sum(1 << node for _, node, _ in latest)
    nodes |= lowest(ready, count - len(latest)) if count > len(latest) else 0
    return Shadow(starts_ms, nodes, first[0], first[2])

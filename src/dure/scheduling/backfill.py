"""EASY backfill: the blocked head of a pool keeps nodes; others pass it only if that costs nothing.

The head's *shadow time* is when enough nodes will have come free if everything runs to its limit.
Those exact nodes are kept for it. A later request may use other nodes as it likes, and the kept
ones only if it ends by the shadow time, so it can never delay the head. Each pool keeps nodes for
one head: the first blocked request in the queue that can start there soonest.

Source: D. Lifka, "The ANL/IBM SP Scheduling System", JSSPP 1995 (EASY).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from dure.scheduling.fit import Fit, FreeNodes
from dure.scheduling.world import NEVER_MS, Occupation, PoolState, Reservation


@dataclass(frozen=True, slots=True)
class Release:
    """Slots that come free, at the latest, when a job ends."""

    ends_ms: int
    job_id: int
    nodes: tuple[int, ...]
    slots: int


@dataclass(frozen=True, slots=True)
class Shadow:
    """When and where a blocked request can start, and the first end that brings it a node."""

    starts_ms: int
    nodes: tuple[int, ...]
    next_ms: int
    next_job_id: int


class Lane:
    """One pool during a pass: what is free, what comes free when, and for whom nodes are kept."""

    __slots__ = ("_free", "_kept", "_now_ms", "_releases", "head_job_id", "reservation", "state")

    def __init__(self, state: PoolState, occupations: Iterable[Occupation], now_ms: int) -> None:
        self.state = state
        self.reservation: Reservation | None = None
        self.head_job_id = 0
        self._now_ms = now_ms
        self._kept = FreeNodes({})
        self._releases: list[Release] = []
        free = dict.fromkeys(() if state.silent else state.nodes, state.pool.gpus_per_node)
        for held in occupations:
            if held.ends_ms < NEVER_MS:
                ends_ms = max(held.ends_ms, now_ms)
                release = Release(ends_ms, held.job_id, held.nodes, held.slots_per_node)
                self._releases.append(release)
            for node in held.nodes:
                if node in free:
                    free[node] -= held.slots_per_node
        self._free = FreeNodes(free)

    @property
    def up(self) -> int:
        """Nodes that may be used now."""
        return len(self._free) + len(self._kept)

    def room(self, slots: int, ends_ms: int) -> int:
        """Nodes where so many slots are free for something that ends then."""
        kept = self._kept.count(slots) if self._may_use_kept(ends_ms) else 0
        return self._free.count(slots) + kept

    def free(self, slots: int) -> int:
        """Nodes where so many slots are free, kept ones among them."""
        return self._free.count(slots) + self._kept.count(slots)

    def fit(self, nodes: int, slots: int, ends_ms: int) -> Fit | None:
        """Nodes for something that starts now and ends then: kept ones only where others lack."""
        if fit := self._free.find(nodes, slots):
            return fit
        if not self._may_use_kept(ends_ms):
            return None
        others = self._free.find(self._free.count(slots), slots)
        assert others is not None
        kept = self._kept.find(nodes - len(others.nodes), slots)
        return others + kept if kept else None

    def uses_kept(self, fit: Fit) -> bool:
        """Whether some of these nodes are kept for the head."""
        return any(node in self._kept for node in fit.nodes)

    def take(self, fit: Fit, release: Release) -> None:
        """Occupy these nodes until the release."""
        for node in fit.nodes:
            (self._free if node in self._free else self._kept).take((node,), release.slots)
        self._releases.append(release)

    def shadow(self, nodes: int, slots: int) -> Shadow | None:
        """When that many nodes will have come free; None where not so many are up.

        Nodes that come free last are chosen first: what is free already stays open to others.
        Only for a pool that keeps nothing yet. The work grows with what must end until then.
        """
        assert self.reservation is None
        short = nodes - self._free.count(slots)
        if nodes > self.up or slots > self.state.pool.gpus_per_node:
            return None
        self._releases.sort(key=lambda release: (release.ends_ms, release.job_id, release.nodes))
        level: dict[int, int] = {}
        freed: list[tuple[int, int, int]] = []  # when, node, job
        for ends_ms, together in groupby(self._releases, key=lambda release: release.ends_ms):
            if len(freed) >= short:
                break
            for release in together:
                for node in release.nodes:
                    if node not in self._free:
                        continue
                    before = level.get(node, self._free.free(node))
                    level[node] = before + release.slots
                    if before < slots <= level[node]:
                        freed.append((ends_ms, node, release.job_id))
        if len(freed) < short:
            return None
        latest = sorted(freed, key=lambda one: (-one[0], one[1]))[:nodes]
        already = self._free.find(nodes - len(latest), slots)
        assert already is not None
        return Shadow(
            starts_ms=freed[-1][0] if freed else self._now_ms,
            nodes=tuple(sorted((*already.nodes, *(node for _, node, _ in latest)))),
            next_ms=freed[0][0] if freed else self._now_ms,
            next_job_id=freed[0][2] if freed else 0,
        )

    def keep(self, reservation: Reservation, job_id: int) -> None:
        """Keep the reservation's nodes for its task, of this job."""
        assert self.reservation is None
        self.reservation, self.head_job_id = reservation, job_id
        self._kept = self._free.withdraw(reservation.nodes)

    def _may_use_kept(self, ends_ms: int) -> bool:
        return self.reservation is not None and ends_ms <= self.reservation.starts_ms

"""Shares with a limit, in a rehearsal: the scheduler's gate that keeps them below it.

The live gate (`dure.scheduling.gate`) knows allocations besides, which a rehearsal's jobs have none
of.
"""

from __future__ import annotations

from collections import Counter

from dure.scheduling.waiting import Offer, Task
from dure.shares import Shares, path


class Ceilings:
    """How many GPUs each limited share and all below it use."""

    __slots__ = ("_limits", "_used")

    def __init__(self, shares: Shares) -> None:
        self._used: Counter[str] = Counter()
        self._limits: dict[str, tuple[tuple[str, int], ...]] = {}
        for share in shares.shares:
            above = (shares.by_id[id_] for id_ in path(shares, share.id))
            limits = tuple((up.id, up.limit_gpus) for up in above if up.limit_gpus is not None)
            if limits:
                self._limits[share.id] = limits

    def __bool__(self) -> bool:
        return bool(self._limits)

    def holds_up(self, task: Task) -> bool:
        """Whether it would take a share of its own above its limit."""
        gpus = task.line.gpus
        return any(self._used[id_] + gpus > limit for id_, limit in self._of(task))

    def admits(self, task: Task, offer: Offer) -> bool:
        """Whether it stays below every limit on this offer."""
        return all(self._used[id_] + offer.gpus <= limit for id_, limit in self._of(task))

    def starts(self, task: Task, offer: Offer) -> None:
        """It takes its GPUs."""
        self.takes(task, offer.gpus)

    def takes(self, task: Task, gpus: int) -> None:
        """It has so many GPUs from now on."""
        for id_, _ in self._of(task):
            self._used[id_] += gpus

    def reserves(self, task: Task, offer: Offer) -> None:
        """Nodes that are kept are not used yet."""

    def ends(self, task: Task) -> bool:
        """It has given its GPUs back; whether that makes room below some limit."""
        limits = self._of(task)
        for id_, _ in limits:
            self._used[id_] -= task.gpus
        return bool(limits)

    def _of(self, task: Task) -> tuple[tuple[str, int], ...]:
        return self._limits.get(task.line.share, ())

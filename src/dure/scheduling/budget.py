"""What allocations still allow during a pass: window, balance, GPUs at a time, array cap.

A hold is taken from the balance as soon as the pass decides it, so two decisions of one pass never
spend the same credit (I3). The database refuses an overdraft besides.
"""

from __future__ import annotations

from collections import Counter

from dure.allocations import Allocation
from dure.errors import Reason
from dure.scheduling import explain
from dure.scheduling.eligible import Offer
from dure.scheduling.world import Request, World


class Budgets:
    """The pass's own copy of every balance, and what runs on it."""

    __slots__ = ("_allocations", "_gpus", "_held", "_left", "_live", "_now_ms", "_running")

    def __init__(self, world: World) -> None:
        self._now_ms = world.now_ms
        self._allocations = {state.allocation.id: state.allocation for state in world.allocations}
        self._left = {state.allocation.id: state.available for state in world.allocations}
        self._held = {state.allocation.id: state.held for state in world.allocations}
        self._live = {held.task_id for held in world.occupations}
        self._running = Counter(held.job_id for held in world.occupations)
        self._gpus: Counter[str] = Counter()
        for held in world.occupations:
            self._gpus[held.allocation] += len(held.nodes) * held.slots_per_node

    def allocation(self, request: Request) -> Allocation | None:
        """The request's allocation, if its project has it."""
        allocation = self._allocations.get(request.allocation)
        return allocation if allocation and allocation.project == request.project else None

    def obstacle(self, request: Request) -> Reason | None:
        """Why the request can start nowhere now, whatever is free."""
        if request.task_id in self._live:
            return explain.already_live(request)
        allocation = self.allocation(request)
        if allocation is None:
            return explain.unknown_allocation(request)
        if max(self._now_ms, allocation.starts_ms) + request.occupied_ms > allocation.ends_ms:
            return explain.beyond_window(request, allocation)
        if self._now_ms < allocation.starts_ms:
            return explain.before_window(allocation)
        if request.max_running is not None and self._running[request.job_id] >= request.max_running:
            return explain.array_cap(request)
        return None

    def shortfall(self, request: Request, offer: Offer) -> Reason | None:
        """Why the allocation cannot carry this offer now."""
        allocation = self._allocations[request.allocation]
        left, held = self._left[allocation.id], self._held[allocation.id]
        if offer.hold > left:
            return explain.short_of_budget(allocation, offer.hold, left, held)
        in_use = self._gpus[allocation.id]
        if allocation.gpus is not None and in_use + offer.gpus > allocation.gpus:
            return explain.short_of_gpus(allocation, offer.gpus, in_use)
        return None

    def set_aside(self, request: Request, offer: Offer) -> None:
        """Take the offer's hold and GPUs out of what later requests may have."""
        self._left[request.allocation] -= offer.hold
        self._held[request.allocation] += offer.hold
        self._gpus[request.allocation] += offer.gpus

    def start(self, request: Request, offer: Offer) -> None:
        """The request starts: set its hold aside and count its task."""
        self.set_aside(request, offer)
        self._running[request.job_id] += 1
        self._live.add(request.task_id)

"""What allocations and shares still allow: window, balance, GPUs at a time, array cap.

A hold is taken from the balance as soon as it is decided, so two decisions of one pass never spend
the same credit (I3). The database refuses an overdraft besides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from dure.allocations import Allocation
from dure.errors import Reason
from dure.scheduling import explain
from dure.scheduling.eligible import Quote
from dure.scheduling.world import Occupation, Request, World
from dure.shares import path


class Budgets:
    """The pass's own copy of every balance, and what runs on it."""

    __slots__ = (
        "_allocations",
        "_gpus",
        "_held",
        "_left",
        "_limited",
        "_live",
        "_running",
        "_shares",
        "now_ms",
    )

    def __init__(self, world: World) -> None:
        self.now_ms = world.now_ms
        self._allocations = {state.allocation.id: state.allocation for state in world.allocations}
        self._left = {state.allocation.id: state.available for state in world.allocations}
        self._held = {state.allocation.id: state.held for state in world.allocations}
        self._live = {held.task_id for held in world.occupations}
        self._running = Counter(held.job_id for held in world.occupations)
        self._shares = world.shares
        self._limited: dict[str, tuple[tuple[str, int], ...]] | None = None
        if any(share.limit_gpus is not None for share in world.shares.shares):
            self._limited = {}
        self._gpus: Counter[str] = Counter()
        """In use, of each allocation and of each share with a limit: their ids never meet, as those
        of shares stand behind a slash.
        """
        for held in world.occupations:
            self._use(held.allocation, held.share, len(held.nodes) * held.slots_per_node)

    def allocation(self, request: Request) -> Allocation | None:
        """The request's allocation, if its project has it."""
        allocation = self._allocations.get(request.allocation)
        return allocation if allocation and allocation.project == request.project else None

    def left(self, allocation: str) -> int:
        """What an allocation's balance still carries, in its unit."""
        return self._left.get(allocation, 0)

    def limits(self, share: str) -> tuple[tuple[str, int], ...]:
        """The shares on the way from this one to its root that have a limit, with that limit."""
        if self._limited is None or share not in self._shares.by_id:
            return ()
        found = self._limited.get(share)
        if found is None:
            ids = path(self._shares, share)
            limited = [(id_, self._shares.by_id[id_].limit_gpus) for id_ in ids]
            found = tuple((id_, gpus) for id_, gpus in limited if gpus is not None)
            self._limited[share] = found
        return found

    def obstacle(self, request: Request) -> Reason | None:
        """Why the request can start nowhere now, whatever is free."""
        return self.own_obstacle(request) or self.kinds_obstacle(request)

    def own_obstacle(self, request: Request) -> Reason | None:
        """An obstacle in the way of this very task."""
        if request.task_id in self._live:
            return explain.already_live(request)
        if request.max_running is not None and self._running[request.job_id] >= request.max_running:
            return explain.array_cap(request)
        return None

    def kinds_obstacle(self, request: Request) -> Reason | None:
        """An obstacle in the way of all tasks like it."""
        allocation = self.allocation(request)
        if allocation is None:
            return explain.unknown_allocation(request)
        if max(self.now_ms, allocation.starts_ms) + request.occupied_ms > allocation.ends_ms:
            return explain.beyond_window(request, allocation)
        if self.now_ms < allocation.starts_ms:
            return explain.before_window(allocation)
        return None

    def carries(self, request: Request, quote: Quote) -> bool:
        """Whether allocation and shares can carry this quote now."""
        id_, gpus = request.allocation, quote.gpus
        if quote.hold(request.occupied_ms) > self._left[id_]:
            return False
        most = self._allocations[id_].gpus
        if most is not None and self._gpus[id_] + gpus > most:
            return False
        return all(
            self._gpus[f"/{share}"] + gpus <= limit for share, limit in self.limits(request.share)
        )

    def shortfall(self, request: Request, quote: Quote) -> Reason | None:
        """Why allocation or shares cannot carry this quote now."""
        if self.carries(request, quote):
            return None
        allocation = self._allocations[request.allocation]
        hold, left = quote.hold(request.occupied_ms), self._left[allocation.id]
        if hold > left:
            return explain.short_of_budget(allocation, hold, left, self._held[allocation.id])
        in_use = self._gpus[allocation.id]
        if allocation.gpus is not None and in_use + quote.gpus > allocation.gpus:
            return explain.short_of_gpus(allocation, quote.gpus, in_use)
        over = (
            (share, limit)
            for share, limit in self.limits(request.share)
            if self._gpus[f"/{share}"] + quote.gpus > limit
        )
        share, limit = next(over)
        return explain.short_of_share(share, quote.gpus, limit, self._gpus[f"/{share}"])

    def short_everywhere(self, request: Request, quotes: Iterable[Quote]) -> Reason | None:
        """Why none of these quotes can be carried now; the cheapest one's reason stands for all."""
        quotes = tuple(quotes)
        if any(self.carries(request, quote) for quote in quotes):
            return None
        return self.shortfall(request, min(quotes, key=lambda quote: quote.rate))

    def set_aside(self, request: Request, quote: Quote) -> None:
        """Take the quote's hold and GPUs out of what others may have."""
        self._move(request, quote, 1)

    def give_back(self, request: Request, quote: Quote) -> None:
        """Undo `set_aside`."""
        self._move(request, quote, -1)

    def start(self, request: Request, quote: Quote) -> None:
        """The request starts: set its hold aside and count its task."""
        self.set_aside(request, quote)
        self._running[request.job_id] += 1
        self._live.add(request.task_id)

    def end(self, request: Request, quote: Quote) -> None:
        """A task that started has ended, and the whole of its hold is spent."""
        self._use(request.allocation, request.share, -quote.gpus)
        self._held[request.allocation] -= quote.hold(request.occupied_ms)
        self._running[request.job_id] -= 1
        self._live.discard(request.task_id)

    def vacate(self, held: Occupation) -> None:
        """What ran already when the pass began has ended."""
        self._use(held.allocation, held.share, -len(held.nodes) * held.slots_per_node)
        self._running[held.job_id] -= 1
        self._live.discard(held.task_id)

    def _move(self, request: Request, quote: Quote, sign: int) -> None:
        hold = sign * quote.hold(request.occupied_ms)
        self._left[request.allocation] -= hold
        self._held[request.allocation] += hold
        self._use(request.allocation, request.share, sign * quote.gpus)

    def _use(self, allocation: str, share: str, gpus: int) -> None:
        self._gpus[allocation] += gpus
        for id_, _ in self.limits(share):
            self._gpus[f"/{id_}"] += gpus

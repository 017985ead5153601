"""What allocations and shares allow, asked and told by the scheduler while it decides.

It also notes how a start came about, for at the end of a decision nobody could tell any more.
"""

from __future__ import annotations

from dataclasses import dataclass

from dure.scheduling.budget import Budgets
from dure.scheduling.eligible import Quote
from dure.scheduling.lane import Keep
from dure.scheduling.lines import Kind
from dure.scheduling.waiting import Offer, Task

Rank = tuple[int, int, int, int]
"""Price, risk of recall, slots left over, pool: the lower, the better."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The pools that had room when a task started, its own one's rank and the next best's, and what
    was kept for a blocked head in its own.
    """

    rooms: int
    chosen: Rank
    runner_up: Rank | None
    ahead_of: Keep | None


def quote_of(task: Task, offer: Offer) -> Quote:
    """What a waiting task pays for an offer."""
    kind: Kind = task.line.source
    return kind.quotes[offer.lane.pool_id]


class BudgetGate:
    """The scheduler's gate. A *probe* asks when it could start and takes nothing from anybody."""

    __slots__ = ("_reserved", "budgets", "choices", "probes", "tells")

    def __init__(self, budgets: Budgets, *, tells: bool) -> None:
        self.budgets = budgets
        self.tells = tells
        """Whether choices are noted."""
        self.choices: dict[int, Choice] = {}
        """By the task's serial."""
        self.probes: set[int] = set()
        """The serials of those tasks."""
        self._reserved: dict[int, Quote] = {}

    def renew(self, budgets: Budgets) -> None:
        """Another instant: other balances, and nothing reserved."""
        self.budgets = budgets
        self.choices = {}
        self._reserved = {}

    def holds_up(self, task: Task) -> bool:
        """Whether it can start nowhere now, whatever is free."""
        if self.budgets.obstacle(task.source) is not None:
            return True
        kind: Kind = task.line.source
        if not kind.apart or task.serial in self._reserved:
            return False
        carries = self.budgets.carries
        return not any(carries(task.source, quote) for quote in kind.quotes.values())

    def admits(self, task: Task, offer: Offer) -> bool:
        """Whether its allocation and its shares carry this offer now."""
        if not task.line.source.apart:
            return True
        reserved = self._reserved.get(task.serial)
        if reserved is None:
            return self.budgets.carries(task.source, quote_of(task, offer))
        self.budgets.give_back(task.source, reserved)
        carries = self.budgets.carries(task.source, quote_of(task, offer))
        self.budgets.set_aside(task.source, reserved)
        return carries

    def starts(self, task: Task, offer: Offer) -> None:
        """It starts there, or nodes are emptied for it."""
        if self.tells:
            self.choices[task.serial] = self._choice(task, offer)
        self._let_go(task)
        if task.serial not in self.probes:
            self.budgets.start(task.source, quote_of(task, offer))

    def reserves(self, task: Task, offer: Offer) -> None:
        """Nodes are kept for it there: so is its hold."""
        if task.serial not in self.probes:
            quote = self._reserved[task.serial] = quote_of(task, offer)
            self.budgets.set_aside(task.source, quote)

    def _let_go(self, task: Task) -> None:
        """What was reserved for a task is free again."""
        quote = self._reserved.pop(task.serial, None)
        if quote is not None:
            self.budgets.give_back(task.source, quote)

    def _choice(self, task: Task, offer: Offer) -> Choice:
        demand = task.line.demand
        ends_ms = self.budgets.now_ms + task.bound_ms
        chosen: Rank = (offer.cost, offer.lane.risk, 0, offer.lane.index)
        others: list[Rank] = []
        for other in demand.offers:
            lane = other.lane
            if lane.idle < other.gpus and other is not offer:
                continue
            nodes = lane.fit(demand.count, other.slots, ends_ms)
            if not nodes and other is not offer:
                continue
            rank = (other.cost, lane.risk, lane.leftover(nodes, other.slots), lane.index)
            if other is offer:
                chosen = rank if nodes else chosen
            elif lane.lends(other.gpus, demand.borrows) and self.admits(task, other):
                others.append(rank)
        return Choice(1 + len(others), chosen, min(others, default=None), offer.lane.head)

"""Who waits, and whose turn it is: the waiting half of the scheduler's state."""

from __future__ import annotations

from heapq import heappop, heappush

from dure.scheduling.fairshare import FairShare
from dure.scheduling.tuning import Tuning
from dure.scheduling.waiting import LATE, Claim, Demand, Line, Task, Turn, Turns

NOBODYS = (1 << 62,)
"""The rank of what stands on nobody's share: after all that do."""


class Queue:
    """All that waits, the ranks of its shares, and alarms for whoever waits past a bound."""

    def __init__(self, tuning: Tuning, fair: FairShare | None) -> None:
        self.active: dict[int, Demand] = {}
        """Demands with something waiting, by serial."""
        self.now_ms = 0
        self.patience_ms = tuning.patience_s * 1_000
        self._fair = fair
        self._bound_ms = tuning.wait_bound_s * 1_000
        self._period_ms = tuning.rank_period_s * 1_000
        self._epoch = 0
        self._ranks: dict[str, tuple[int, ...]] = {}
        self._lines: dict[str, dict[Line, None]] = {}
        """Those with something waiting, by share."""
        self._alarms: list[tuple[int, int, Task]] = []

    # ---- time ------------------------------------------------------------------------------------

    def moves_to(self, now_ms: int) -> None:
        """It is that late; now and then, every share is ranked anew, as time moves ranks too."""
        self.now_ms = now_ms
        if self._fair is None or now_ms // self._period_ms == self._epoch:
            return
        self._epoch = now_ms // self._period_ms
        before, self._ranks = self._ranks, {}
        earlier: dict[Turns, None] = {}
        for share, lines in self._lines.items():
            rank = self.rank(share)
            if rank != before.get(share):
                for line in lines:
                    if line.moves(rank):
                        earlier.update(dict.fromkeys(line.stands_in()))
        for turns in earlier:
            turns.renew()

    @property
    def alarm_ms(self) -> int | None:
        """When somebody's wait passes a bound, or what it was told to expect is due."""
        return self._alarms[0][0] if self._alarms else None

    def ring(self) -> Task | None:
        """The next task whose alarm is due; who has waited past the bound goes to the front."""
        alarms, now_ms = self._alarms, self.now_ms
        while alarms and alarms[0][0] <= now_ms:
            _, _, task = heappop(alarms)
            if task.place is None:
                continue
            if task.late != LATE and self._is_late(task):
                task.late = LATE
                task.line.push(task)
                self.place(task.line)
            self.watch(task)
            return task
        return None

    def watch(self, task: Task) -> None:
        """Ring when a task has waited past the next bound."""
        waited_ms = self.now_ms - task.since_ms
        ahead = [ms for ms in (self.patience_ms, self._bound_ms) if ms > waited_ms]
        if ahead:
            heappush(self._alarms, (task.since_ms + min(ahead), task.serial, task))

    def remind(self, task: Task, at_ms: int) -> None:
        """Ring then, but not at once."""
        heappush(self._alarms, (max(at_ms, self.now_ms + 1), task.serial, task))

    # ---- who waits -------------------------------------------------------------------------------

    def enter(self, task: Task) -> None:
        """A task waits from now on."""
        if self._is_late(task):  # it ran before and was cut short
            task.late = LATE
        line = task.line
        line.push(task)
        self.place(line)
        self._lines.setdefault(line.share, {})[line] = None
        demand = line.demand
        if demand.serial not in self.active:
            self.active[demand.serial] = demand
            for offer in demand.offers:
                offer.lane.demands[demand.serial] = demand
        for claim in line.claims:
            if not claim.is_up:
                claim.is_up = True
                for _, promise in claim.pairs:
                    promise.claims[claim] = None

    def leave(self, task: Task) -> None:
        """A task waits no more."""
        line = task.line
        line.remove(task)
        self.place(line)
        if not line.waiting:
            lines = self._lines[line.share]
            del lines[line]
            if not lines:
                del self._lines[line.share]

    def place(self, line: Line) -> None:
        """Put a line where its head belongs now."""
        line.place(self.rank(line.share))

    # ---- whose turn it is ------------------------------------------------------------------------

    def first(self, turns: Turns) -> Line | None:
        """The line whose turn it is."""
        return turns.first(self.rank)

    def turn(self, whose: Demand | Claim) -> Turn | None:
        """How soon a demand's or a claim's head has its turn; one without a head is taken out."""
        line = self.first(whose.turns)
        if line is not None:
            return line.turn
        if isinstance(whose, Claim):
            whose.is_up = False
            for _, promise in whose.pairs:
                promise.claims.pop(whose, None)
        elif self.active.pop(whose.serial, None) is not None:
            for offer in whose.offers:
                del offer.lane.demands[whose.serial]
        return None

    def rank(self, share: str) -> tuple[int, ...]:
        """Where a share stands, in the order of fair share."""
        if self._fair is None:
            return ()
        if not share:
            return NOBODYS
        rank = self._ranks.get(share)
        if rank is None:
            rank = self._ranks[share] = self._fair.rank(share, self.now_ms)
        return rank

    def uses_more(self, share: str) -> None:
        """A share has begun to use more: its rank is another, and found out in its turn."""
        self._ranks.pop(share, None)

    def uses_less(self, share: str, now_ms: int) -> None:
        """A share has given GPUs back: its lines may have their turn earlier."""
        self.now_ms = now_ms
        before = self._ranks.pop(share, None)
        if share in self._lines:
            self._place_anew(share, before)

    def _place_anew(self, share: str, before: tuple[int, ...] | None) -> None:
        rank = self.rank(share)
        if rank != before:
            for line in self._lines[share]:
                line.place(rank)

    def _is_late(self, task: Task) -> bool:
        return self.now_ms - task.since_ms >= self._bound_ms

"""How often a start estimate comes true: every so many-th job asks for one when it is submitted,
and its true start is held against the ranges.
"""

from __future__ import annotations

from dataclasses import dataclass

from dure.scheduling.ahead import starts_ahead
from dure.scheduling.foresight import Foresight, StartEstimate
from dure.scheduling.fork import fork
from dure.scheduling.scheduler import Scheduler
from dure.scheduling.waiting import Task
from dure.units import MS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """Of the jobs that asked: how many had to wait, and which parts of all and of those that waited
    started within their 50 and 90 % ranges. `unforeseen` got no estimate and are in none.
    """

    asked: int
    waited: int
    within_50: float
    within_90: float
    waited_within_50: float
    waited_within_90: float
    median_width_90_s: float
    unforeseen: int


class Calibration:
    """Asks and compares. `every`: one job in so many asks."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._submitted = 0
        self._new: list[Task] = []
        self._asked: dict[int, tuple[StartEstimate, int, int]] = {}
        self._foresight = Foresight()
        self._at_once = 0
        self._within = {50: 0, 90: 0}
        self._widths_ms: list[int] = []
        self._unforeseen = 0

    def submitted(self, task: Task) -> None:
        """A job is new."""
        self._submitted += 1
        if self._submitted % self._every == 0:
            self._new.append(task)

    def started(self, task: Task, now_ms: int) -> None:
        """A job has started, the first time or again."""
        asked = self._asked.pop(task.serial, None)
        if asked is None:
            return
        said, foreseen_ms, asked_ms = asked
        self._within[50] += said.likely_from_ms <= now_ms <= said.likely_until_ms
        self._within[90] += said.surely_from_ms <= now_ms <= said.surely_until_ms
        self._widths_ms.append(said.surely_until_ms - said.surely_from_ms)
        self._foresight.learn(foreseen_ms - asked_ms, now_ms - asked_ms)

    def ask(self, scheduler: Scheduler, now_ms: int) -> None:
        """Ask for those of the new ones that did not start at once."""
        for task in self._new:
            if task.lane is not None:
                self._at_once += 1
                continue
            if task.keep is not None:
                foreseen_ms: int | None = task.keep.until_ms
            else:
                ahead = starts_ahead(fork(scheduler, now_ms), now_ms, [task.serial])
                foreseen_ms = ahead.get(task.serial)
            if foreseen_ms is None:
                self._unforeseen += 1
                continue
            said = self._foresight.estimate(now_ms, foreseen_ms)
            self._asked[task.serial] = (said, foreseen_ms, now_ms)
        self._new.clear()

    def result(self) -> Calibrated:
        """What came of it; jobs that still wait are not in it."""
        waited = len(self._widths_ms)
        asked = self._at_once + waited
        widths = sorted(self._widths_ms)
        return Calibrated(
            asked=asked,
            waited=waited,
            within_50=(self._at_once + self._within[50]) / max(1, asked),
            within_90=(self._at_once + self._within[90]) / max(1, asked),
            waited_within_50=self._within[50] / max(1, waited),
            waited_within_90=self._within[90] / max(1, waited),
            median_width_90_s=widths[waited // 2] / MS_PER_S if widths else 0.0,
            unforeseen=self._unforeseen,
        )
